"""Each parameter of `masked_text` has an effect on the computation, and the right one where it can be said shortly."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.trainers.text.job import QUICK, TextJob, text_job, text_rows
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.text.models.load import load_text
from trainers.text.training.trainable import auto_values

DREAM: dict[str, Any] = {"training_method": "dream"}
LORA: dict[str, Any] = {"lora": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
CHANGES_THE_FIRST_LOSS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "seed": ("llada", {}, {"seed": 42 + 2**32}),
    "batch_size": ("llada", {}, {"batch_size": 3}),
    "gradient_accumulation_steps": ("llada", {}, {"gradient_accumulation_steps": 2}),
    "dtype": ("llada", {}, {"dtype": "bfloat16"}),
    "max_length": ("llada", {"eos_padding": "masked"}, {"max_length": 32}),
    "mask_prompt_loss": ("llada", {}, {"mask_prompt_loss": False}),
    "eos_padding": ("llada", {}, {"eos_padding": "single"}),
    "noise_schedule": ("llada", {}, {"noise_schedule": "cosine"}),
    "time_epsilon": ("llada", {}, {"time_epsilon": 0.3}),
    "antithetic_t": ("llada", {}, {"antithetic_t": False}),
    "loss_weight_type": ("llada", {}, {"loss_weight_type": "uniform"}),
    "loss_norm_type": ("llada", {}, {"loss_norm_type": "batch"}),
    "suppress_mask_logit": ("llada", {}, {"suppress_mask_logit": True}),
    "model_dropout": ("llada", {}, {"model_dropout": 0.5}),
    "training_method": ("llama", {}, DREAM),
    "cart": ("dream", DREAM, {"loss_weight_type": "cart[geo_p:0.6]"}),
    "perbatch_cutoff": ("dream", DREAM | {"eos_padding": "masked"}, {"perbatch_cutoff": False}),
    "resp_cutoff_ratio": ("dream", DREAM | {"perbatch_cutoff": False}, {"resp_cutoff_ratio": 1.0}),
    "both cutoffs": ("dream", DREAM | {"batch_size": 4, "eos_padding": "masked"}, {"resp_cutoff_ratio": 1.0}),
    "mask_prompt_loss of Dream": ("dream", DREAM, {"mask_prompt_loss": False}),
    "load_in_4bit": ("llada", LORA, {"load_in_4bit": True}),
}
CHANGES_LATER_LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "learning_rate": ("llada", {}, {"learning_rate": 1e-3}),
    "learning_rate_schedule": ("llada", {}, {"learning_rate_schedule": "linear", "warmup_ratio": 0.0}),
    "warmup_ratio": ("llada", {"learning_rate_schedule": "linear", "warmup_ratio": 0.0}, {"warmup_ratio": 0.7}),
    "optimizer": ("llada", {}, {"optimizer": "adamw8bit"}),
    "muon": ("llada", {}, {"optimizer": "muon"}),
    "weight_decay": ("llada", {}, {"weight_decay": 0.9}),
    "max_grad_norm": ("llada", {}, {"max_grad_norm": 1e-6}),
    "lora": ("llada", {}, LORA),
    "lora_r": ("llada", LORA, {"lora_r": 8}),
    "lora_alpha": ("llada", LORA, {"lora_alpha": 64}),
    "lora_dropout": ("llada", LORA, {"lora_dropout": 0.5}),
    "target_modules": ("llada", LORA, {"target_modules": "q_proj,v_proj"}),
    "train_mask_embedding": ("llama", LORA, {"train_mask_embedding": "off"}),
}
ELSEWHERE = {
    "adaptor_name": "test_masked_text.test_an_adaptor_describes_itself_in_its_metadata",
    "train_device": "test_the_device_and_the_resources_must_agree",
    "gpu_ids": "test_the_device_and_the_resources_must_agree",
    "num_train_epochs": "test_num_train_epochs_overrides_train_steps",
    "train_steps": "test_num_train_epochs_overrides_train_steps",
    "gradient_checkpointing": "test_gradient_checkpointing_gives_the_same_loss",
    "fuse": "test_masked_text.test_fuse_writes_the_base_merged_with_the_adaptor",
    "truncation": "test_long_rows_are_truncated_or_dropped_and_counted_in_the_manifest",
    "packing": "test_packing_does_not_change_the_loss",
    "split": "test_splits.test_a_training_records_the_split_it_read",
    "num_proc": "test_dataset.test_threads_are_limited_by_num_proc",
    "validation_split": "test_masked_text.test_a_job_of_nine_rows_has_no_validation_and_warns",
    "max_validation_rows": "test_masked_text.test_a_job_of_nine_rows_has_no_validation_and_warns",
    "input_template": "test_templates_make_the_rows",
    "output_template": "test_templates_make_the_rows",
    "supervise_turns": "test_all_turns_are_learned_or_the_last",
    "logging_steps": "test_step_intervals_below_one_are_shares_of_the_total",
    "eval_strategy": "test_evaluation_follows_eval_strategy",
    "eval_steps": "test_step_intervals_below_one_are_shares_of_the_total",
    "eval_prompts": "test_masked_text.test_eval_prompts_are_answered_with_a_trace",
    "save_steps": "test_step_intervals_below_one_are_shares_of_the_total",
    "keep_checkpoints": "test_step_intervals_below_one_are_shares_of_the_total",
    "log_to_tensorboard": "test_log_to_tensorboard_writes_event_files",
    "log_to_wandb": "test_log_to_wandb_writes_an_offline_run",
    "wandb_project": "test_log_to_wandb_writes_an_offline_run",
    "secrets": "the worker gives them as its environment",
}
Make = Callable[..., TextJob]


@pytest.fixture
def make(tmp_path: Path, tiny_text: Callable[[str], Path]) -> Make:
    count = iter(range(100))

    def make_job(family: str = "llada", rows: list[dict[str, Any]] | None = None, **params: Any) -> TextJob:
        return text_job(tmp_path / str(next(count)), tiny_text(family), rows, **params)

    return make_job


@pytest.fixture(scope="module")
def losses_of(tmp_path_factory: pytest.TempPathFactory, tiny_text: Callable[[str], Path]) -> Callable[..., list[float]]:
    """Losses of a job, each made once."""
    losses_by_key: dict[str, list[float]] = {}

    def losses(family: str, params: dict[str, Any]) -> list[float]:
        key = f"{family} {sorted(params.items())}"
        if key not in losses_by_key:
            job = text_job(tmp_path_factory.mktemp("job") / "job", tiny_text(family), **params).finished()
            losses_by_key[key] = list(job.losses().values())
        return losses_by_key[key]

    return losses


def test_every_parameter_is_named_in_one_of_the_tables() -> None:
    named = {*CHANGES_THE_FIRST_LOSS, *CHANGES_LATER_LOSSES, *ELSEWHERE}
    assert named >= set(MaskedTextParams.model_fields)


@pytest.mark.parametrize("name", CHANGES_THE_FIRST_LOSS)
def test_a_parameter_changes_the_first_loss(name: str, losses_of: Callable[..., list[float]]) -> None:
    family, common, change = CHANGES_THE_FIRST_LOSS[name]
    steps = {"train_steps": 2}
    assert losses_of(family, common | steps)[0] != losses_of(family, common | change | steps)[0]


@pytest.mark.parametrize("name", CHANGES_LATER_LOSSES)
def test_a_parameter_changes_what_is_learned(name: str, losses_of: Callable[..., list[float]]) -> None:
    family, common, change = CHANGES_LATER_LOSSES[name]
    before, after = losses_of(family, common), losses_of(family, common | change)
    if name != "lora_dropout":
        assert before[0] == after[0]
    assert before[-1] != after[-1]


def test_packing_does_not_change_the_loss(losses_of: Callable[..., list[float]]) -> None:
    packed, padded = losses_of("llada", {}), losses_of("llada", {"packing": False})
    assert packed == pytest.approx(padded, rel=1e-4)
    assert packed[0] != losses_of("llada", {"packing": False, "eos_padding": "supervised"})[0]


def test_gradient_checkpointing_gives_the_same_loss(
    losses_of: Callable[..., list[float]], tiny_text: Callable[[str], Path]
) -> None:
    on = {"gradient_checkpointing": "on", "model_dropout": 0.3}
    assert losses_of("llada", on) == pytest.approx(losses_of("llada", on | {"gradient_checkpointing": "off"}), rel=1e-5)
    base = load_text(tiny_text("llada"), torch.float32)
    assert auto_values(base)["gradient_checkpointing"] == "off"


def test_num_train_epochs_overrides_train_steps(make: Make) -> None:
    job = make(num_train_epochs=2, train_steps=1000, batch_size=4, validation_split=0.0).finished()
    assert max(job.losses()) == 6
    assert max(make(train_steps=2).finished().losses()) == 2


def test_step_intervals_below_one_are_shares_of_the_total(make: Make) -> None:
    shares = {"logging_steps": 0.5, "save_steps": 0.25, "eval_steps": 0.5, "eval_strategy": "steps"}
    job = make(train_steps=8, keep_checkpoints=2, **shares).finished()
    assert list(job.losses()) == [1, 4, 8]  # the first and the last are always told
    assert [event.step for event in job.of_kind("checkpoint")] == [2, 4, 6, 8]
    assert sorted(path.name for path in (job.out / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    assert [event.step for event in job.of_kind("validation")] == [0, 4, 8]


def test_evaluation_follows_eval_strategy(make: Make) -> None:
    by_epoch = make(eval_strategy="epoch", num_train_epochs=2, train_steps=1000, batch_size=11).finished()
    assert [event.step for event in by_epoch.of_kind("validation")] == [0, 1, 2]
    never = make(rows=text_rows(20)).finished()
    assert not never.of_kind("validation") and never.manifest["dataset"]["held_out"] == 0, "nothing is held out unseen"
    assert not never.of_kind("sample")
    assert not MaskedTextParams.model_validate(QUICK).shows() and MaskedTextParams(adaptor_name="a").shows()


@pytest.mark.parametrize("value", [1.5, 0, -1])
def test_steps_are_shares_or_whole_numbers(value: float) -> None:
    with pytest.raises(ValidationError):
        MaskedTextParams(adaptor_name="a", eval_steps=value)


def test_long_rows_are_truncated_or_dropped_and_counted_in_the_manifest(make: Make) -> None:
    rows = [*text_rows(10), {"prompt": "the", "completion": "on " * 90}, {"prompt": "on " * 90, "completion": "the"}]
    cut = make(rows=rows).finished().manifest["dataset"]
    assert (cut["rows"], cut["truncated"], cut["filtered"], cut["without_response"]) == (12, 1, 0, 1)
    dropped = make(rows=rows, truncation="filter").finished().manifest["dataset"]
    assert (dropped["truncated"], dropped["filtered"], dropped["documents"]) == (0, 2, 10)


def test_max_length_above_the_models_positions_is_refused(make: Make) -> None:
    job = make(max_length=300)
    assert job.run() == 1
    assert "max_length=300 is more than the 256 positions" in job.failure().reason.message


def test_templates_make_the_rows(make: Make) -> None:
    rows = [{"english": row["prompt"], "german": row["completion"]} for row in text_rows()]
    templated = make(rows=rows, input_template="{{ english }}", output_template="{{ german }}").finished()
    assert templated.losses() == make().finished().losses()


def test_all_turns_are_learned_or_the_last(make: Make) -> None:
    turns = [("user", "the"), ("assistant", "on in one"), ("user", "cat"), ("assistant", "dog")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}] * 12
    result = [make(rows=rows, supervise_turns=kind).finished().first_loss() for kind in ("last", "all")]
    assert result[0] != result[1]


def test_log_to_tensorboard_writes_event_files(make: Make) -> None:
    assert not (make(train_steps=1).finished().out / "tensorboard").exists()
    finished = make(train_steps=1, log_to_tensorboard=True, eval_strategy="steps", eval_prompts=["the"]).finished()
    assert any((finished.out / "tensorboard").iterdir())


@pytest.mark.slow
def test_log_to_wandb_writes_an_offline_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not (make(train_steps=1).finished().out / "wandb").exists()
    settings = {"log_to_wandb": True, "wandb_project": "words", "eval_strategy": "steps", "eval_prompts": ["the"]}
    finished = make(train_steps=1, **settings).finished()
    assert any(b"words" in path.read_bytes() for path in (finished.out / "wandb").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("params", "accelerators", "expected_message"),
    [
        ({"train_device": "cuda"}, 0, "train_device='cuda' needs accelerators"),
        ({"train_device": "cpu"}, 1, "train_device='cpu' uses no accelerators"),
        ({"gpu_ids": "1,2"}, 0, "gpu_ids='1,2' wants exactly these"),
        ({"gpu_ids": "1"}, (2,), "gpu_ids='1' wants exactly these"),
        ({"train_device": "tpu"}, 0, "needs torch_xla, which is not installed on this worker"),
    ],
)
def test_the_device_and_the_resources_must_agree(
    params: dict[str, Any], accelerators: Any, expected_message: str, make: Make
) -> None:
    job = make(accelerators=accelerators, **params)
    assert job.run() == 1
    assert expected_message in job.failure().reason.message


@pytest.mark.parametrize(
    ("params", "expected_message"),
    [
        ({"optimizer": "muon", "lora": True}, "optimizer='muon' needs lora=false"),
        ({"load_in_4bit": True}, "load_in_4bit=true needs lora=true"),
        ({"fuse": True}, "fuse=true needs lora=true"),
        ({"train_mask_embedding": "on"}, "needs lora=true"),
        ({"train_mask_embedding": "off"}, "train_mask_embedding='off' needs lora=true"),
        ({"lora_r": 8}, "lora_r=8 needs lora=true, got lora=false, which trains all weights"),
        ({"lora_alpha": 8}, "lora_alpha=8 needs lora=true"),
        ({"lora_dropout": 0.0}, "lora_dropout=0.0 needs lora=true"),
        ({"target_modules": "q_proj"}, "target_modules='q_proj' needs lora=true"),
        ({"warmup_ratio": 0.5}, "warmup_ratio=0.5 does nothing with learning_rate_schedule='constant'"),
        ({"eval_strategy": "epoch", "eval_steps": 0.5}, "eval_steps=0.5 does nothing with eval_strategy='epoch'"),
        ({"eval_prompts": ["a"]}, "does nothing with eval_strategy='no'"),
        ({"validation_split": 0.2}, "validation_split=0.2 does nothing with eval_strategy='no'"),
        ({"eval_strategy": "steps", "validation_split": 0.0, "max_validation_rows": 9}, "max_validation_rows=9 does"),
        ({"perbatch_cutoff": True}, "perbatch_cutoff=True is for training_method='dream'"),
        ({"resp_cutoff_ratio": 0.1}, "resp_cutoff_ratio=0.1 is for training_method='dream'"),
        ({"loss_weight_type": "cart[geo_p:0.3]"}, "is for training_method='dream'"),
        (DREAM | {"loss_weight_type": "cart[geo_p:1.0]"}, "P above 0 and below 1"),
        (DREAM | {"loss_weight_type": "cart[geo_p:0.0]"}, "P above 0 and below 1"),
        ({"eos_padding": "supervised"}, "packing=true pads nothing"),
        ({"eos_padding": "block:0"}, "eos_padding"),
        ({"input_template": "x"}, "go together"),
        ({"train_device": "cpu", "gpu_ids": "0"}, "names accelerators"),
        ({"gpu_ids": "0,0"}, "names an accelerator twice"),
        ({"gpu_ids": "0;1"}, "gpu_ids"),
        ({"wandb_project": "x"}, "log_to_wandb=false"),
        ({"lora_r": 6}, "multiple of 4"),
        ({"eval_prompts": ["a", " "]}, "one is empty"),
    ],
)
def test_conflicting_parameters_are_refused(params: dict[str, Any], expected_message: str) -> None:
    with pytest.raises(ValidationError, match=expected_message.replace("(", r"\(").replace("[", r"\[")):
        MaskedTextParams.model_validate({**QUICK, **params})


def test_dumped_parameters_validate_again() -> None:
    for params in ({}, DREAM, LORA, {"eos_padding": "cap:8"}):
        parsed = MaskedTextParams.model_validate({"adaptor_name": "a", **params})
        assert MaskedTextParams.model_validate(parsed.model_dump(mode="json")) == parsed


def test_defaults_depend_on_the_recipe() -> None:
    bert, dream = (MaskedTextParams(adaptor_name="a", training_method=method) for method in ("bert", "dream"))
    assert (bert.weighting, bert.geo_p, bert.cuts_per_batch, bert.cut_ratio) == ("scheduler", None, False, 0.0)
    assert (dream.weighting, dream.geo_p, dream.cuts_per_batch, dream.cut_ratio) == ("cart[geo_p:0.3]", 0.3, True, 0.0)
    assert (bert.rate, MaskedTextParams(adaptor_name="a", lora=True).rate) == (2e-5, 1e-4)


def test_large_cutoffs_warn() -> None:
    assert not MaskedTextParams(adaptor_name="a", training_method="dream", resp_cutoff_ratio=0.1).warnings()
    (expected_message,) = MaskedTextParams(adaptor_name="a", training_method="dream", resp_cutoff_ratio=0.3).warnings()
    assert "both cut" in expected_message


@pytest.mark.parametrize(("family", "method"), [("bert", "llada"), ("llada", "dream"), ("dream", "bert")])
def test_a_recipe_for_another_family_is_refused(family: str, method: str, make: Make) -> None:
    job = make(family, training_method=method)
    assert job.run() == 1
    assert f"the family {family}" in job.failure().reason.message


def test_frozen_weights_have_the_dtype_and_trained_ones_are_fp32(make: Make) -> None:
    job = make(dtype="float16", **LORA, save_steps=3).finished()
    assert all("loss_scale" in event.metrics for event in job.of_kind("step"))
    (checkpoint,) = (job.out / "checkpoints").iterdir()
    for part in ("weights", "optimizer"):
        assert {tensor.dtype for tensor in load_file(checkpoint / f"{part}.safetensors").values()} == {torch.float32}
    full = make(dtype="bfloat16", save_steps=3).finished()
    (checkpoint,) = (full.out / "checkpoints").iterdir()
    assert {tensor.dtype for tensor in load_file(checkpoint / "weights.safetensors").values()} == {torch.float32}
    saved = load_file(full.out / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_load_in_4bit_without_its_library_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    job = make(load_in_4bit=True, **LORA)
    assert job.run() == 1
    assert "bitsandbytes is not installed on this worker" in job.failure().reason.message
