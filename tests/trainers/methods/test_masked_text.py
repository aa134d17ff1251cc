"""Whole `masked_text` jobs: what they leave, what they show, exact resume, two processes."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.patience import PATIENCE_SECONDS
from tests.trainers.job import SHA256, AtStep
from tests.trainers.text.job import TextJob, text_job, text_rows
from trainers.contract.spec import InputRef
from trainers.core.checkpoint import newest_checkpoint
from trainers.job import run
from trainers.text.adaptors.lora import text_adaptor_load, text_adaptors_apply
from trainers.text.data.chat import prompt_ids
from trainers.text.models.base import hidden_padded, logits
from trainers.text.models.load import load_text

LORA: dict[str, Any] = {"lora": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
DEMANDING: dict[str, Any] = {
    "training_method": "dream",
    "train_steps": 6,
    "gradient_accumulation_steps": 2,
    "save_steps": 2,
    "learning_rate_schedule": "cosine",
    "warmup_ratio": 0.3,
    "resp_cutoff_ratio": 0.5,
    "eos_padding": "cap:4",
    "mask_prompt_loss": False,
    "model_dropout": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_prompts": ["the cat"],
    "lora": True,
    "lora_dropout": 0.3,
}
"""Everything that draws at random, with checkpoints between which steps are lost."""
Make = Callable[..., TextJob]


@pytest.fixture
def make(tmp_path: Path, tiny_text: Callable[[str], Path]) -> Make:
    def make_job(name: str = "job", family: str = "llada", rows: Any = None, **params: Any) -> TextJob:
        return text_job(tmp_path / name, tiny_text(family), rows, **params)

    return make_job


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", "bert"),
        ("modernbert", "bert"),
        ("llada", "llada"),
        ("dream", "dream"),
        ("qwen2", "llada"),
        ("qwen3", "dream"),
        ("llama", "llada"),
    ],
)
def test_each_family_trains_and_the_model_loads(family: str, method: str, make: Make) -> None:
    job = make(family=family, training_method=method, train_steps=2).finished()
    base = load_text(job.out / "model", torch.float32)
    assert base.family == family
    assert base.shift == (method == "dream")
    assert not base.was_causal
    assert job.manifest["family"] == family
    assert all(torch.isfinite(tensor).all() for tensor in load_file(job.out / "model" / "model.safetensors").values())


def test_the_loss_falls(make: Make) -> None:
    """Rows that all say the same are learned by heart."""
    rows = [{"prompt": "the", "completion": "on in"}] * 12
    job = make(rows=rows, train_steps=40, batch_size=4, eval_strategy="steps", eval_steps=40).finished()
    before, after = (event.metrics for event in job.of_kind("validation"))
    assert after["nll"] < 0.3 * before["nll"]
    assert after["accuracy"] > 0.8 > before["accuracy"]


def test_an_adaptor_describes_itself_in_its_metadata(make: Make) -> None:
    job = make(**LORA).finished()
    assert not (job.out / "model").exists()
    with safe_open(job.out / "adaptor" / "adapter_model.safetensors", "pt") as file:
        header = file.metadata()
    assert header["name"] == "tiny"
    assert header["base_sha256"] == SHA256
    assert header["training_method"] == "llada"
    assert header["step"] == "3"
    card = (job.out / "adaptor" / "README.md").read_text()
    assert card.startswith('---\nbase_model: "model"\nlibrary_name: peft') and "# tiny" in card
    assert f"| train_steps | {job.manifest['params']['train_steps']} |" in card and "stopped" not in card
    assert "adaptor/README.md" in {entry["path"] for entry in job.manifest["files"]}


@pytest.mark.parametrize("scored", [True, False])
def test_prompts_begin_as_in_training(scored: bool, make: Make) -> None:
    """With Dream's shift and mask_prompt_loss false, rows begin with a BOS; with it true, they do not."""
    job = make(family="dream", training_method="dream", mask_prompt_loss=scored, fuse=True, **LORA).finished()
    base = load_text(job.inputs / "model", torch.float32)
    plain = prompt_ids(base, "the cat")
    refs = [InputRef(name=name, key=name, sha256=SHA256) for name in ("model", "tiny")]
    text_adaptors_apply(base, refs[0], refs[1:], [job.out], [1.0])
    fused = load_text(job.out / "model", torch.float32)
    assert prompt_ids(base, "the cat") == prompt_ids(fused, "the cat") == ([] if scored else [base.bos_id]) + plain


@pytest.mark.parametrize("bits", [False, True])
def test_fuse_writes_the_base_merged_with_the_adaptor(bits: bool, make: Make) -> None:
    job = make(family="llama", fuse=True, load_in_4bit=bits, **LORA).finished()
    base = load_text(job.inputs / "model", torch.float32)
    text_adaptor_load(base, job.out / "adaptor", "a", 1.0)
    fused = load_text(job.out / "model", torch.float32)
    ids = torch.tensor([[5, base.mask_id, 7, 8]])
    expected, result = (logits(model, hidden_padded(model, ids)) for model in (base, fused))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    untouched = load_text(job.inputs / "model", torch.float32)
    assert not torch.allclose(result, logits(untouched, hidden_padded(untouched, ids)), atol=1e-3)


def test_the_manifest_records_resolved_parameters_and_dropped_rows(make: Make) -> None:
    job = make(
        family="dream",
        training_method="dream",
        loss_weight_type="cart[geo_p:.4]",
        resp_cutoff_ratio=0.1,
        eval_strategy="epoch",
    )
    result = job.finished().manifest
    expected = {
        "training_method": "dream",
        "perbatch_cutoff": True,
        "resp_cutoff_ratio": 0.1,
        "loss_weight_type": "cart[geo_p:.4]",
        "geo_p": 0.4,
        "mask_prompt_loss": True,
        "eos_padding": "block:32",
        "eos_token": "<|endoftext|>",
        "seed": 42,
    }
    assert {key: result[key] for key in expected} == expected
    assert result["dataset"]["rows"] == 12
    assert result["dataset"]["held_out"] == 1
    assert result["dataset"]["chat_format"] == "chatml"
    assert result["equal_on_any_processes"] is True


def test_bert_uses_sep_as_end_token(make: Make) -> None:
    result = make(family="bert", training_method="bert", train_steps=1).finished().manifest
    assert (result["eos_token"], result["pad_token"]) == ("[SEP]", "[PAD]")


def test_eval_prompts_are_answered_with_a_trace(make: Make) -> None:
    job = make(eval_strategy="steps", eval_steps=2, eval_prompts=["the cat", "on"], train_steps=2).finished()
    samples = job.of_kind("sample")
    assert [(sample.step, sample.prompt) for sample in samples] == [
        (0, "the cat"),
        (0, "on"),
        (2, "the cat"),
        (2, "on"),
    ]
    record = json.loads((job.out / samples[0].path).read_bytes())
    assert record["prompt"] == "the cat"
    steps = [token["step"] for token in record["tokens"]]
    assert -1 in steps
    assert sorted(step for step in steps if step >= 0) == list(range(64))
    assert samples[0].path in {entry["path"] for entry in job.manifest["files"]}


def test_a_job_of_nine_rows_has_no_validation_and_warns(make: Make) -> None:
    job = make(rows=text_rows(9), eval_strategy="steps").finished()
    assert not job.of_kind("validation")
    assert any("9 rows are fewer than 10" in warning.message for warning in job.of_kind("warning"))
    assert job.manifest["dataset"]["held_out"] == 0
    shared = make("ten", rows=text_rows(10), eval_strategy="epoch", validation_split=0.3).finished()
    assert shared.manifest["dataset"]["held_out"] == 3
    few = make("few", rows=text_rows(10), eval_strategy="epoch", validation_split=0.3, max_validation_rows=2).finished()
    assert few.manifest["dataset"]["held_out"] == 2


def test_an_invalid_row_is_named(make: Make) -> None:
    job = make(rows=[*text_rows(3), {"prompt": "the", "completion": ""}])
    assert job.run() == 1
    assert "rows.jsonl line 4: expected text under 'completion'" in job.failure().reason.message


def test_equal_jobs_write_equal_bytes(make: Make) -> None:
    first, second = (make(name).finished() for name in ("a", "b"))
    assert first.losses() == second.losses()
    assert first.weights == second.weights


def validations(job: TextJob) -> dict[int, dict[str, float]]:
    return {event.step: event.metrics for event in job.of_kind("validation")}


FULL = {"lora": False, "eval_prompts": [], "lora_dropout": 0.05}


@pytest.mark.parametrize(
    "change",
    [{}, FULL | {"dtype": "float16", "optimizer": "adamw8bit"}, FULL | {"optimizer": "muon"}],
    ids=["lora", "adamw8bit", "muon"],
)
def test_a_resumed_job_is_bit_exact(change: dict[str, Any], make: Make) -> None:
    params = DEMANDING | change
    complete = make("whole", "dream", **params).finished()
    other = make("other", "dream", **params)
    shutil.copytree(complete.out / "checkpoints" / "step-00000002", other.inputs / "checkpoint")
    other.finished()
    assert other.losses() == {step: loss for step, loss in complete.losses().items() if step > 2}
    assert validations(other) == {step: metrics for step, metrics in validations(complete).items() if step >= 2}
    product = "model/model.safetensors" if change else "adaptor/adapter_model.safetensors"
    assert (other.out / product).read_bytes() == (complete.out / product).read_bytes()
    for sample in other.of_kind("sample"):
        assert (other.out / sample.path).read_bytes() == (complete.out / sample.path).read_bytes()


@pytest.mark.long(smaller="test_a_resumed_job_is_bit_exact")
@pytest.mark.parametrize("step", range(1, 7))
def test_killed_at_every_step(step: int, make: Make) -> None:
    complete = make("whole", "dream", **DEMANDING).finished()
    job = make("killed", "dream", **DEMANDING)
    (process,) = job.start(at_step=AtStep(step, "kill"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    job.finished()
    assert job.losses() == complete.losses()
    assert validations(job) == validations(complete)
    adaptors = [(one.out / "adaptor" / "adapter_model.safetensors").read_bytes() for one in (job, complete)]
    assert adaptors[0] == adaptors[1]


def test_a_stopped_job_leaves_a_partial_product(make: Make) -> None:
    job = make()
    job.command(1, "stop")
    assert job.run() == 0
    assert job.manifest["outcome"] == "stopped"
    assert job.weights
    assert newest_checkpoint(job.out / "checkpoints") is not None


def test_a_checkpoint_of_other_parameters_is_refused(make: Make) -> None:
    job = make(save_steps=2).finished()
    other = make("other", eos_padding="single")
    shutil.copytree(job.out / "checkpoints" / "step-00000002", other.inputs / "checkpoint")
    assert other.run() == 1
    assert other.failure().reason.code == "bad_checkpoint"


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(make: Make) -> None:
    common = {"train_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 1e-3}
    one = make("one", batch_size=4, **common).finished()
    two = make("two", batch_size=2, **common).spec(processes=2, batch_size=2, **common)
    for process in two.start(world_size=2):
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    assert two.losses() == pytest.approx(one.losses(), rel=1e-5)
    for ours, reference in zip(validations(two).values(), validations(one).values(), strict=True):
        assert ours == pytest.approx(reference, rel=1e-4)


def test_resolved_auto_values_are_recorded(make: Make) -> None:
    job = make(family="llama", **LORA).finished()
    state = json.loads((job.out / "checkpoints" / "step-00000003" / "state.json").read_bytes())
    assert state["choices"] == {"gradient_checkpointing": "off", "train_mask_embedding": "on"}


@pytest.mark.slow
def test_resuming_with_another_world_size_preserves_steps_and_rows(make: Make) -> None:
    """Epochs of 12 documents in batches of 4, begun on 1 process and ended on 2."""
    common = {"num_train_epochs": 2, "train_steps": 1000, "save_steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    complete = make("whole", gradient_accumulation_steps=2, **common).finished()
    resumed = make("resumed").spec(processes=2, gradient_accumulation_steps=2, **common)
    shutil.copytree(complete.out / "checkpoints" / "step-00000002", resumed.inputs / "checkpoint")
    for process in resumed.start(world_size=2):
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    assert max(complete.losses()) == 6
    assert list(resumed.losses()) == [3, 4, 5, 6]
    assert resumed.losses() == pytest.approx({step: complete.losses()[step] for step in range(3, 7)}, rel=1e-5)


def test_a_dataset_preview_shows_tokens(make: Make) -> None:
    job = make(family="bert", rows=[{"prompt": "the [MASK]", "completion": "is the cat"}] * 12)
    params = {
        "template_method": "masked_text",
        "template_params": {"eos_padding": "block:8", "batch_size": 2},
        "num_rows": 3,
    }
    inputs = {role: {"name": role, "key": role, "sha256": SHA256} for role in ("dataset", "model")}
    spec = {"name": "look", "method": "inspect_dataset", "params": params, "inputs": inputs}
    (job.root / "spec.json").write_text(json.dumps(spec))
    assert run(job.root / "spec.json", job.inputs, job.out, job.cache) == 0, job.of_kind("failed")
    report = json.loads((job.out / "samples" / "report.json").read_bytes())
    assert (report["rows"], report["documents"], report["chat_format"], len(report["samples"])) == (12, 12, "bert", 3)
    tokens = report["samples"][0]["tokens"]
    roles = [token["role"] for token in tokens]
    assert roles[0] == "special"
    prompt = "".join(token["text"] for token in tokens if token["role"] == "prompt")
    assert prompt == " the [ mask ]"
    masked = [token for sample in report["samples"] for token in sample["tokens"] if token["masked"]]
    assert masked
    assert {token["role"] for token in masked} == {"response"}
