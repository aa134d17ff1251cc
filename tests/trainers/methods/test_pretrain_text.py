"""`pretrain_text` as real jobs: a tiny network on a corpus made here."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from foundation.yaml12 import PlainLoader
from tests.patience import PATIENCE_SECONDS
from tests.tolerance import NETWORK, assert_near
from tests.trainers.job import SHA256, AtStep, Job
from tests.trainers.text.job import WORDS, workspace
from trainers.contract.params.pretrain_text import PretrainTextParams
from trainers.contract.spec import Resources
from trainers.methods import sample_text
from trainers.text.models.base import hidden_padded, logits
from trainers.text.models.create import byte_tokenizer
from trainers.text.models.load import load_text

EXAMPLES = Path(__file__).parents[3] / "examples" / "pretrain"
TINY: dict[str, Any] = {
    "name": "tiny",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "packing_length": 64,
    "batch_size": 4,
    "max_steps": 4,
    "warmup_steps": 0,
    "dtype": "float32",
    "learning_rate": 1e-2,
    "learning_rate_schedule": "constant_with_warmup",
    "logging_steps": 1,
    "validation_documents": 0,
    "save_steps": 1000,
    "shuffle_window": 16,
    "log_to_tensorboard": False,
}
Make = Callable[..., "PretrainJob"]


class PretrainJob(Job):
    def spec(self, *, processes: int = 1, model: bool = False, **params: Any) -> "PretrainJob":
        """Writes spec.json: TINY with `params` over it."""
        resources = {"strategy": "ddp", "processes": processes} if processes > 1 else {}
        inputs = {role: {"name": role, "key": role, "sha256": SHA256} for role in ("dataset", *["model"] * model)}
        content = {"name": "job", "method": "pretrain_text", "params": TINY | params, "inputs": inputs}
        self.root.joinpath("spec.json").write_text(json.dumps({**content, "resources": resources}))
        return self

    def finished(self) -> "PretrainJob":
        """Runs it here; the job must succeed."""
        assert self.run() == 0, self.of_kind("failed")
        return self

    @property
    def weights(self) -> bytes:
        return (self.out / "model" / "model.safetensors").read_bytes()

    def masked_nll(self) -> list[float]:
        return [step.metrics["masked_nll"] for step in self.of_kind("step")]


def texts(count: int) -> list[str]:
    return [f"{WORDS[n % 5]} {WORDS[n * 3 % 5]} {n % 10} in the {WORDS[(n * 7 + 1) % 5]}" for n in range(count)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_job(name: str = "job", *, base: Path | None = None, **params: Any) -> PretrainJob:
        job = PretrainJob(tmp_path / name, tmp_path / name / "cache")
        job.dataset.mkdir(parents=True)
        (job.dataset / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
        (job.dataset / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(90)[60:]))
        if base:
            (job.inputs / "model").symlink_to(base)
        return job.spec(model=base is not None, **params)

    return make_job


def test_it_learns_and_leaves_a_base_model(make: Make, tmp_path: Path) -> None:
    """From the nll of a uniform guess to that of the corpus's letters; then it is sampled from."""
    job = make(max_steps=60, validation_documents=16, eval_steps=30).finished()
    curve = job.masked_nll()
    assert curve[0] == pytest.approx(math.log(320), abs=0.4)
    assert sum(curve[-5:]) / 5 < 2.6
    nll = [event.metrics["nll"] for event in job.of_kind("validation")]
    assert len(nll) == 3 and nll[-1] < nll[0] / 1.8
    assert job.manifest["family"] == "qwen3" and job.manifest["corpus"]["files"] == ["a.jsonl", "b.jsonl"]
    sampled = workspace(
        tmp_path / "sampled", "sample_text", job.out / "model", prompts=["the cat"], max_new_tokens=8, steps=4
    )
    assert sample_text.sample(sampled) == "succeeded"


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
def test_the_model_opens_in_transformers_with_equal_logits(architecture: str, make: Make) -> None:
    job = make(architecture=architecture, max_steps=1, tie_word_embeddings=architecture == "llama").finished()
    base = load_text(job.out / "model", torch.float32)
    assert (base.family, base.was_causal, base.mask_id, base.eos_id) == (architecture, False, 257, 256)
    stock = AutoModelForCausalLM.from_pretrained(job.out / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job.out / "model")
    ids_BL = torch.tensor([tokenizer("the cat").input_ids])
    mask_BHLL = torch.ones(1, 1, ids_BL.shape[1], ids_BL.shape[1], dtype=torch.bool)  # sees both sides
    with torch.no_grad():
        assert_near(logits(base, hidden_padded(base, ids_BL)), stock(ids_BL, attention_mask=mask_BHLL).logits, NETWORK)


def test_the_byte_tokenizer_has_a_token_for_each_byte() -> None:
    tokenizer = byte_tokenizer()
    text = "café 世界\n\t<|mask|>"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert ids == list(text.encode()) and tokenizer.decode(ids) == text
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.mask_token_id) == (258, 256, 257)


def test_a_base_gives_its_tokenizer(make: Make, tiny_text: Callable[[str], Path]) -> None:
    folder = tiny_text("qwen3")
    job = make(base=folder, max_steps=1).finished()
    created, base = load_text(job.out / "model", torch.float32), load_text(folder, torch.float32)
    assert created.tokenizer("the cat").input_ids == base.tokenizer("the cat").input_ids
    assert created.model.config.hidden_size == 32 and created.vocab_size % 64 == 0


def test_a_vocabulary_without_room_for_the_mask_is_refused(make: Make) -> None:
    job = make(vocab_size=257)
    assert job.run() == 1
    assert "vocab_size=257 is too small: the tokenizer has 258 tokens with the mask" in job.failure().reason.message


@pytest.mark.parametrize("family", ["qwen3", "llada"])
def test_training_goes_on_with_the_weights_of_a_base(family: str, make: Make, tiny_text: Callable[[str], Path]) -> None:
    network = {name: PretrainTextParams.model_fields[name].default for name in TINY if name in NETWORK_FIELDS}
    job = make(base=tiny_text(family), continue_training=True, max_steps=1, learning_rate=1e-7, **network).finished()
    before, after = load_text(tiny_text(family), torch.float32), load_text(job.out / "model", torch.float32)
    assert after.family == family
    assert_near(
        after.model.get_input_embeddings().weight, before.model.get_input_embeddings().weight, {"rtol": 0, "atol": 1e-5}
    )


NETWORK_FIELDS = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")


def test_equal_jobs_write_equal_bytes_and_another_seed_others(make: Make) -> None:
    first, second = make("a").finished(), make("b").finished()
    assert first.losses() == second.losses() and first.weights == second.weights
    assert make("c", seed=43).finished().losses() != first.losses()


DEMANDING = {"max_steps": 7, "save_steps": 2, "short_batches": 0.5, "document_mask": True, "validation_documents": 5}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_job_is_bit_exact(optimizer: str, make: Make) -> None:
    """Over an epoch's end: the corpus has about 2,300 tokens, a step up to 256."""
    params = DEMANDING | {"optimizer": optimizer, "eval_steps": 3}
    complete = make("whole", **params | {"max_steps": 12}).finished()
    other = make("other", **params | {"max_steps": 12})
    shutil.copytree(complete.out / "checkpoints" / "step-00000010", other.inputs / "checkpoint")
    other.finished()
    assert other.losses() == {step: loss for step, loss in complete.losses().items() if step > 10}
    assert other.weights == complete.weights
    assert other.manifest["corpus"] == complete.manifest["corpus"]


@pytest.mark.parametrize("step", [1, pytest.param(4, marks=pytest.mark.long(smaller="killed[1]")), 7])
def test_killed_and_taken_up_no_token_repeats_or_is_left_out(step: int, make: Make) -> None:
    complete = make("whole", **DEMANDING).finished()
    job = make("killed", **DEMANDING)
    (process,) = job.start(at_step=AtStep(step, "kill"))
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    job.finished()
    assert job.losses() == complete.losses() and job.weights == complete.weights
    assert job.manifest["corpus"]["position"] == complete.manifest["corpus"]["position"]


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(make: Make) -> None:
    common = {"max_steps": 4, "learning_rate": 1e-3, "gradient_accumulation_steps": 2, "document_mask": True}
    one = make("one", **common).finished()
    two = make("two").spec(processes=2, **common)
    for process in two.start(world_size=2):
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    assert two.losses() == pytest.approx(one.losses(), rel=1e-5)


CHANGES_THE_FIRST_LOSS: dict[str, dict[str, Any]] = {
    "architecture": {"architecture": "llama"},
    "vocab_size": {"vocab_size": 300},
    "hidden_size": {"hidden_size": 40},
    "intermediate_size": {"intermediate_size": 72},
    "num_layers": {"num_layers": 1},
    "num_heads": {"num_heads": 2},
    "num_kv_heads": {"num_kv_heads": 4},
    "head_dim": {"head_dim": 12},
    "rope_theta": {"rope_theta": 100.0},
    "tie_word_embeddings": {"tie_word_embeddings": True},
    "text_column": {"text_column": "other"},
    "packing_length": {"packing_length": 48},
    "document_mask": {"document_mask": True},
    "shuffle_window": {"shuffle_window": 1},
    "short_batches": {"short_batches": 1.0},
    "validation_documents": {"validation_documents": 9},
    "batch_size": {"batch_size": 3},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "seed": {"seed": 43},
    "noise_schedule": {"noise_schedule": "cosine"},
    "time_epsilon": {"time_epsilon": 0.3},
    "antithetic_t": {"antithetic_t": False},
    "loss_weight_type": {"loss_weight_type": "uniform"},
    "dtype": {"dtype": "bfloat16"},
}
CHANGES_LATER_LOSSES: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": "adamw"},
    "learning_rate": {"learning_rate": 1e-3},
    "learning_rate_schedule": {"learning_rate_schedule": "linear"},
    "warmup_steps": {"warmup_steps": 2},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.9},
    "adam_epsilon": {"adam_epsilon": 1e-2},
    "weight_decay": {"weight_decay": 0.9},
    "max_grad_norm": {"max_grad_norm": 1e-6, "optimizer": "adamw", "adam_epsilon": 1e-3},
}
ELSEWHERE = {
    "name": "test_a_product_has_the_name_of_the_parameters",
    "continue_training": "test_training_goes_on_with_the_weights_of_a_base",
    "split": "test_the_split_chooses_the_files",
    "max_steps": "test_it_learns_and_leaves_a_base_model",
    "gradient_checkpointing": "test_gradient_checkpointing_gives_the_same_loss",
    "logging_steps": "test_reports_checkpoints_and_boards_are_as_asked",
    "eval_steps": "test_it_learns_and_leaves_a_base_model",
    "save_steps": "test_reports_checkpoints_and_boards_are_as_asked",
    "keep_checkpoints": "test_reports_checkpoints_and_boards_are_as_asked",
    "log_to_tensorboard": "test_reports_checkpoints_and_boards_are_as_asked",
}


def test_every_parameter_is_named_in_one_of_the_tables() -> None:
    assert {*CHANGES_THE_FIRST_LOSS, *CHANGES_LATER_LOSSES, *ELSEWHERE} == set(PretrainTextParams.model_fields)


def rows_with_two_columns(job: PretrainJob) -> PretrainJob:
    for path in job.dataset.iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "other": row["text"][::-1]}) + "\n" for row in rows))
    return job


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    root = tmp_path_factory.mktemp("plain")
    job = PretrainJob(root, root / "cache")
    job.dataset.mkdir(parents=True)
    for name, part in (("a", texts(60)), ("b", texts(90)[60:])):
        (job.dataset / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return list(job.spec().finished().losses().values())


@pytest.mark.parametrize("name", CHANGES_THE_FIRST_LOSS)
def test_a_parameter_changes_the_first_loss(name: str, make: Make, plain_losses: list[float]) -> None:
    job = rows_with_two_columns(make(**CHANGES_THE_FIRST_LOSS[name] | {"max_steps": 1}))
    assert job.finished().losses()[1] != plain_losses[0]


@pytest.mark.parametrize("name", CHANGES_LATER_LOSSES)
def test_a_parameter_changes_what_is_learned(name: str, make: Make, plain_losses: list[float]) -> None:
    losses = list(make(**CHANGES_LATER_LOSSES[name]).finished().losses().values())
    assert losses[0] == plain_losses[0] and losses[-1] != plain_losses[-1]


def test_gradient_checkpointing_gives_the_same_loss(make: Make, plain_losses: list[float]) -> None:
    job = make(gradient_checkpointing=True).finished()
    assert list(job.losses().values()) == pytest.approx(plain_losses, rel=1e-5)


def test_the_split_chooses_the_files(make: Make) -> None:
    job = make(split="validation", max_steps=1)
    for old, new in (("a", "train"), ("b", "validation")):
        (job.dataset / f"{old}.jsonl").rename(job.dataset / f"{new}.jsonl")
    assert job.finished().manifest["corpus"]["files"] == ["validation.jsonl"]


def test_reports_checkpoints_and_boards_are_as_asked(make: Make) -> None:
    job = make(max_steps=6, logging_steps=3, save_steps=2, keep_checkpoints=2, log_to_tensorboard=True).finished()
    assert list(job.losses()) == [1, 3, 6]
    assert sorted(path.name for path in (job.out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert list((job.out / "tensorboard").glob("events.out.tfevents.*"))


def test_a_product_has_the_name_of_the_parameters() -> None:
    params = PretrainTextParams(name="from-scratch")
    assert params.product_name == "from-scratch" and params.products() == ("model",)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"continue_training": True, "hidden_size": 64}, "hidden_size=64 does nothing with continue_training=true"),
        ({"learning_rate_schedule": "constant", "warmup_steps": 5}, "warmup_steps=5 does nothing"),
        ({"validation_documents": 0, "eval_steps": 5}, "eval_steps=5 does nothing with validation_documents=0"),
        ({"head_dim": 7}, "multiple of 2"),
        ({"optimizer": "sgd"}, "muon"),
    ],
)
def test_contradictions_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainTextParams.model_validate({"name": "a", **params})


def test_going_on_needs_a_base(make: Make) -> None:
    network = {name: PretrainTextParams.model_fields[name].default for name in NETWORK_FIELDS}
    job = make(continue_training=True, **network)
    assert job.run() == 1 and "inputs.model, which is missing" in job.failure().reason.message


def test_a_batch_that_the_processes_cannot_share_is_refused(make: Make) -> None:
    job = make().spec(processes=2, batch_size=3)
    for process in job.start(world_size=2):
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 1
    assert "batch_size=3 must be a multiple of the 2 processes" in job.failure().reason.message


def test_a_short_warmup_is_advised() -> None:
    assert "the rate never arrives" in PretrainTextParams(name="a", max_steps=10).warnings()[0]
    assert not PretrainTextParams(name="a").warnings()


def test_weights_are_fp32_in_training_and_the_file_has_dtype(make: Make) -> None:
    job = make(dtype="bfloat16", max_steps=2, save_steps=2).finished()
    stored = load_file(job.out / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    trained = load_file(job.out / "checkpoints" / "step-00000002" / "weights.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_valid_templates(path: Path) -> None:
    template = yaml.load(path.read_text(), Loader=PlainLoader)
    params = PretrainTextParams.model_validate(template["params"])
    Resources.model_validate(template.get("resources", {}))
    assert template["name"] == f"pretrain-{path.stem}" and template["method"] == "pretrain_text"
    assert not params.warnings()


@pytest.mark.acceptance
@pytest.mark.parametrize("tokenizer", ["bytes", "qwen3-0.6b"])
def test_real_text_is_learned(tokenizer: str, shared_data: Path, tmp_path: Path) -> None:
    job = PretrainJob(tmp_path / "job", tmp_path / "cache")
    job.dataset.mkdir(parents=True)
    (job.dataset / "input.txt").symlink_to(shared_data / "text" / "tinyshakespeare" / "input.txt")
    if tokenizer != "bytes":
        (job.inputs / "model").symlink_to(shared_data / "tokenizers" / tokenizer)
    params = {"max_steps": 40, "validation_documents": 20, "eval_steps": 20, "short_batches": 0.0}
    job.spec(model=tokenizer != "bytes", **params).finished()
    nll = [event.metrics["nll"] for event in job.of_kind("validation")]
    assert len(nll) == 3 and nll[0] > nll[1] > nll[2] and nll[2] < 0.75 * nll[0]
    assert load_text(job.out / "model", torch.float32).vocab_size % 64 == 0
