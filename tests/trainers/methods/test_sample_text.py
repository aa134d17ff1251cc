import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer

from tests.tiny_text import BUILDERS
from tests.trainers.context import context_make
from tests.trainers.text.job import MODEL, Make, events_of, save_adaptor, workspace
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Event, EventWriter, Payload, Sample
from trainers.contract.params.sample_text import SampleTextParams
from trainers.job import run
from trainers.methods.sample_text import infill_ids, sample
from trainers.text.data.chat import prompt_ids
from trainers.text.models.load import load_text
from trainers.text.sampling.texts import Decoding, answers_sample

QUICK: dict[str, Any] = {"prompts": ["the cat", "one"], "max_new_tokens": 8, "block_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: BUILDERS[family](root / family) for family in ("llada", "dream", "bert", "llama")}


@pytest.fixture(scope="module")
def adaptor(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adaptor(folders["llada"], tmp_path_factory.mktemp("adaptor"))


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Make:
    def build(family: str = "llada", **options: Any) -> Any:
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        arguments = QUICK | options
        if "infill_texts" in options or "messages" in options:
            arguments = {key: value for key, value in arguments.items() if key != "prompts" or "prompts" in options}
        if "infill_texts" in options:
            arguments.pop("max_new_tokens")
        return workspace(folder, "sample_text", folders[family], **arguments)

    return build


def records(work: Any) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((work.out / "samples").glob("text-*.json"))]


def tokens(work: Any) -> list[list[int]]:
    assert sample(work) == "succeeded"
    return [[token["id"] for token in record["tokens"]] for record in records(work)]


def test_a_job_writes_each_text_with_its_trace_and_emits_samples(make: Make, folders: dict[str, Path]) -> None:
    work = make()
    assert sample(work) == "succeeded"
    first, second = records(work)
    assert (first["prompt"], second["prompt"]) == ("the cat", "one") and (first["seed"], second["seed"]) == (42, 43)
    base = load_text(folders["llada"], torch.float32)
    prompt = prompt_ids(base, "the cat")
    assert [token["id"] for token in first["tokens"][:-8]] == prompt
    assert [token["step"] for token in first["tokens"][:-8]] == [-1] * len(prompt)
    assert sorted(token["step"] for token in first["tokens"][-8:]) == list(range(8)) and first["steps"] == 8
    assert "".join(token["text"] for token in first["tokens"]).startswith("<|startoftext|><|start_header_id|>user")
    assert first["base_model"] == {"name": MODEL["name"], "sha256": MODEL["sha256"]}
    assert first["parameters"]["max_new_tokens"] == 8 and first["mask"] == "<|mdm_mask|>"
    kinds = [data.kind for data in events_of(work)]
    assert kinds == ["started", *["progress"] * 8, "sample", "sample"]
    samples = [data for data in events_of(work) if isinstance(data, Sample)]
    assert [(s.path, s.prompt, s.seed) for s in samples] == [
        ("samples/text-0001.json", "the cat", 42),
        ("samples/text-0002.json", "one", 43),
    ]
    assert samples[0].details == {"text": first["text"], "steps": 8} and work.facts["steps"] == 2


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "llama"])
def test_every_family_answers_and_fills_gaps(make: Make, family: str) -> None:
    for options in ({}, {"infill_texts": ["the [MASK:3] cat [MASK]"]}):
        work = make(family, **options)
        assert sample(work) == "succeeded"
        assert all(token["step"] >= -1 for record in records(work) for token in record["tokens"])


def test_only_gaps_are_filled(make: Make, folders: dict[str, Path]) -> None:
    work = make("bert", infill_texts=["the [MASK:3] cat is [MASK]"])
    assert sample(work) == "succeeded"
    base = load_text(folders["bert"], torch.float32)
    ids = infill_ids(base, "the [MASK:3] cat is [MASK]")
    piece = base.tokenizer.convert_tokens_to_ids
    expected = ["[CLS]", "the", *["[MASK]"] * 3, "cat", "is", "[MASK]", "[SEP]"]
    assert ids == piece(expected)
    (record,) = records(work)
    result = [token["id"] for token in record["tokens"]]
    assert [a for a, b in zip(result, ids, strict=True) if b != base.mask_id] == [i for i in ids if i != base.mask_id]
    assert base.mask_id not in result
    assert [token["step"] == -1 for token in record["tokens"]] == [i != base.mask_id for i in ids]


def test_a_literal_mask_token_of_a_prompt_stays_text(make: Make, folders: dict[str, Path]) -> None:
    base = load_text(folders["llada"], torch.float32)
    assert base.mask_id not in prompt_ids(base, "say <|mdm_mask|>")
    work = make(prompts=["say <|mdm_mask|>"])
    assert sample(work) == "succeeded" and records(work)[0]["steps"] == 8


def test_a_chat_is_answered_after_its_last_turn(make: Make, folders: dict[str, Path]) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    work = make(messages=[chat])
    assert sample(work) == "succeeded"
    (record,) = records(work)
    assert record["prompt"] == chat
    prompt = prompt_ids(load_text(folders["llada"], torch.float32), chat)
    assert [token["id"] for token in record["tokens"][: len(prompt)]] == prompt
    (told_of,) = [data for data in events_of(work) if isinstance(data, Sample)]
    assert told_of.prompt == "three"
    wrong = make(messages=[[{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]])
    with pytest.raises(TrainerError, match="turn 1: expected user, got assistant"):
        sample(wrong)


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("llada", {"steps": 2}),
    ("llada", {"block_size": 2}),
    ("llada", {"remasking": "margin"}),
    ("llada", {"remasking": "entropy"}),
    ("llada", {"remasking": "random"}),
    ("llada", {"temperature": 2.0}),
    ("llada", {"cfg_scale": 4.0}),
    ("llada", {"threshold": 0.01}),
    ("llada", {"max_new_tokens": 9}),
    ("llada", {"cache": "dual", "block_size": 4}),
    ("llada", {"cache": "prefix", "block_size": 4}),
    ("dream", {"alg": "origin"}),
    ("dream", {"alg": "maskgit_plus"}),
    ("dream", {"alg": "topk_margin"}),
    ("dream", {"alg_temp": 2.0}),
    ("dream", {"eps": 0.9, "steps": 4}),
    ("dream", {"temperature": 2.0}),
]


def outcome(work: Any) -> list[Any]:
    assert sample(work) == "succeeded"
    return [[(token["id"], token["step"]) for token in record["tokens"]] for record in records(work)]


@pytest.mark.parametrize(("family", "change"), CHANGES, ids=lambda value: str(value))
def test_each_parameter_changes_the_denoising(make: Make, family: str, change: dict[str, Any]) -> None:
    plain = {"steps": 4} if "eps" in change else {"block_size": 4} if "cache" in change else {}
    assert outcome(make(family, **change)) != outcome(make(family, **plain))


@pytest.mark.parametrize("cut", [{"top_p": 0.05}, {"top_k": 1}])
def test_top_p_and_top_k_remove_randomness(make: Make, cut: dict[str, Any]) -> None:
    """With only the likeliest token left a temperature changes nothing."""
    assert tokens(make("dream", temperature=0.3, alg="maskgit_plus", **cut, steps=1)) == tokens(
        make("dream", alg="maskgit_plus", steps=1)
    )
    assert tokens(make("dream", temperature=3.0, alg="maskgit_plus", steps=1)) != tokens(
        make("dream", alg="maskgit_plus", steps=1)
    )


def test_suppressed_tokens_are_never_sampled(make: Make) -> None:
    sampled = {token for row in tokens(make()) for token in row[-8:]}
    result = {token for row in tokens(make(suppress_tokens=sorted(sampled))) for token in row[-8:]}
    assert not result & sampled
    with pytest.raises(TrainerError, match="suppress_tokens has 999, but the base model's tokens are 0 to 270"):
        sample(make(suppress_tokens=[999]))
    with pytest.raises(TrainerError, match="leaves no token to choose"):
        sample(make(suppress_tokens=list(range(271))))


def test_text_i_is_sampled_with_seed_plus_i(make: Make) -> None:
    many = tokens(make(prompts=["the cat"], num_samples=3, temperature=1.0, seed=7))
    assert len({tuple(row) for row in many}) == 3
    assert tokens(make(prompts=["the cat"], temperature=1.0, seed=9)) == [many[2]]


def test_the_batch_size_does_not_change_the_texts(make: Make) -> None:
    prompts = ["the cat", "one", "two and three", "x"]
    options = {"prompts": prompts, "temperature": 0.8, "dtype": "float32"}
    assert tokens(make(**options, batch_size=1)) == tokens(make(**options, batch_size=3))


def test_texts_with_different_gaps_take_different_numbers_of_steps(make: Make) -> None:
    texts = ["the [MASK] cat", "[MASK:5] dog [MASK:2]"]
    work = make(infill_texts=texts)
    assert sample(work) == "succeeded"
    assert [record["steps"] for record in records(work)] == [1, 7]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_of_the_computation_is_the_parameter(make: Make, folders: dict[str, Path], dtype: str) -> None:
    work = make("llada", dtype=dtype)
    result = tokens(work)
    base = load_text(folders["llada"], getattr(torch, dtype))
    expected = answers_sample(
        base,
        [prompt_ids(base, prompt) for prompt in QUICK["prompts"]],
        Decoding(max_new_tokens=8, steps=8, block_size=8),
        [42, 43],
    )
    assert result == [list(text.ids) for text in expected]


def test_load_in_4bit_changes_the_answers(make: Make) -> None:
    pytest.importorskip("bitsandbytes")
    assert outcome(make(load_in_4bit=True, max_new_tokens=16)) != outcome(make(max_new_tokens=16))


def test_an_adaptor_applies_at_its_scale_and_is_removed_afterwards(make: Make, adaptor: Path) -> None:
    plain = tokens(make())
    work = make(adaptors=[adaptor], adaptor_scales=[1.0])
    assert tokens(work) != plain
    base = work.models.get((MODEL["sha256"], torch.float32, False, torch.device("cpu")), lambda: None)
    assert records(work)[0]["adaptors"] == [{"name": "poet@1", "sha256": "cd" * 32, "scale": 1.0}]
    prompts = [prompt_ids(base, prompt) for prompt in QUICK["prompts"]]
    again = answers_sample(base, prompts, Decoding(max_new_tokens=8, steps=8, block_size=8), [42, 43])
    assert [list(text.ids) for text in again] == plain
    assert tokens(make(adaptors=[adaptor], adaptor_scales=[0.0])) == plain


def test_an_adaptor_of_another_base_is_refused(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    adaptor = save_adaptor(folders["llada"], tmp_path / "other", base_sha256="12" * 32)
    with pytest.raises(TrainerError) as caught:
        sample(make(adaptors=[adaptor]))
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR


def test_a_causal_base_shifts_as_its_adaptor_was_trained(
    make: Make, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    adaptors = {
        recipe: save_adaptor(folders["llama"], tmp_path_factory.mktemp(recipe), mask_row=True, training_method=recipe)
        for recipe in ("llada", "dream")
    }
    assert tokens(make("llama", adaptors=[adaptors["dream"]])) != tokens(make("llama", adaptors=[adaptors["llada"]]))
    assert sample(make("llama", adaptors=[adaptors["dream"]], top_k=5)) == "succeeded"
    with pytest.raises(TrainerError, match="top_k=5 is for Dream"):
        sample(make("llama", adaptors=[adaptors["llada"]], top_k=5))
    with pytest.raises(TrainerError, match="only poet@1 of the adaptors were trained"):
        sample(make("llama", adaptors=[adaptors["llada"], adaptors["dream"]]))


class Stopping(EventWriter):
    """Puts a stop into the control file as soon as `after` progress events were written."""

    def __init__(self, path: Path, control: Path, after: int) -> None:
        super().__init__(path)
        self._control, self._after = control, after

    def emit(self, payload: Payload) -> Event:
        event = super().emit(payload)
        self._after -= event.data.kind == "progress"
        if self._after == 0:
            self._control.write_text(json.dumps({"seq": 3, "command": "stop"}))
        return event


def test_a_stopped_job_keeps_complete_texts(make: Make) -> None:
    work = make(batch_size=1)
    stopping = Stopping(work.out / "events.jsonl", work.inputs / "control", after=10)
    work = context_make(work.spec, work.inputs, work.out, work.cache, stopping)
    assert sample(work) == "stopped"
    assert len(records(work)) == 1 and work.facts["steps"] == 1
    assert [data.seq for data in events_of(work) if data.kind == "control"] == [3]


def test_the_program_runs_a_job_and_writes_its_manifest(make: Make) -> None:
    work = make()
    spec = work.out.parent / "spec.json"
    spec.write_text(work.spec.model_dump_json())
    assert run(spec, work.inputs, work.out, work.cache) == 0
    manifest = json.loads((work.out / "manifest.json").read_bytes())
    assert [file["path"] for file in manifest["files"]] == ["samples/text-0001.json", "samples/text-0002.json"]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "give one of prompts, messages and infill_texts, got none"),
        ({"prompts": ["a"], "infill_texts": ["[MASK]"]}, "got prompts and infill_texts"),
        ({"infill_texts": ["no gap"]}, "each must have a gap"),
        ({"infill_texts": ["a [MASK:0] [MASK]"]}, "n from 1 to 9999, got '[MASK:0]'"),
        ({"infill_texts": ["a [MASK:12345] [MASK]"]}, "got '[MASK:12345]'"),
        ({"infill_texts": ["a [MASK"]}, "got '[MASK'"),
        ({"infill_texts": ["[MASK]"], "max_new_tokens": 4}, "max_new_tokens=4 does nothing"),
        ({"prompts": [" "]}, "each must have 1 to 100000 characters"),
        ({"messages": [[{"role": "assistant", "content": "x"}]]}, "the last is the user's"),
        ({"prompts": ["a"], "threshold": 0.9, "steps": 4}, "steps=4 does nothing with threshold=0.9"),
        ({"prompts": ["a"], "threshold": 0.9, "remasking": "margin"}, "looks at probabilities"),
        ({"prompts": ["a"], "alg": "origin", "alg_temp": 1.0}, "does nothing with alg='origin'"),
    ],
)
def test_parameters_that_do_nothing_are_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence.replace("[", r"\[")):
        SampleTextParams(**params)


def test_a_parameter_of_another_family_is_a_problem() -> None:
    dream = SampleTextParams(prompts=("a",), top_p=0.9)
    other = SampleTextParams(prompts=("a",), remasking="margin")
    assert "top_p=0.9 is for Dream" in dream.family_problem("llada") and not dream.family_problem("dream")
    assert "remasking='margin' is for base models other than Dream" in other.family_problem("dream")
    assert not other.family_problem("bert") and not dream.family_problem("llama")


@pytest.mark.acceptance
def test_the_real_stories_model_fills_gaps(shared_data: Path, tmp_path: Path) -> None:
    work = workspace(
        tmp_path,
        "sample_text",
        shared_data / "weights" / "stories260K",
        infill_texts=["Once upon a time, there was a [MASK:4] named Lily."],
    )
    assert sample(work) == "succeeded"
    (record,) = records(work)
    assert record["text"].startswith("Once upon a time") and record["text"].endswith("named Lily.")


def test_a_text_with_gaps_begins_like_a_training_text(folders: dict[str, Path]) -> None:
    """With Dream's shift the first token is predicted at a BOS, for want of one at an end token."""
    base = load_text(folders["dream"], torch.float32)
    assert infill_ids(base, "[MASK] cat")[:2] == [base.bos_id, base.mask_id]
    assert infill_ids(replace(base, bos_id=None), "[MASK] cat")[:2] == [base.eos_id, base.mask_id]
    assert infill_ids(replace(base, shift=False), "[MASK] cat")[0] == base.mask_id


def test_a_space_before_a_gap_is_preserved_if_it_is_a_token(folders: dict[str, Path]) -> None:
    base = load_text(folders["dream"], torch.float32)
    ids = infill_ids(base, "cat [MASK] dog")
    assert base.tokenizer.decode([i for i in ids[1:-1] if i != base.mask_id]) == "cat  dog"


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b", "bert-base-uncased"])
def test_with_a_real_tokenizer_a_gap_includes_the_space_of_its_word(
    shared_data: Path, folders: dict[str, Path], name: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name)
    base = replace(load_text(folders["llama"], torch.float32), tokenizer=tokenizer, mask_id=-1)
    ids = infill_ids(base, "the [MASK] cat")[:-1]
    first, _, last = tokenizer("the big cat", add_special_tokens=False).input_ids
    assert ids == [first, -1, last]
