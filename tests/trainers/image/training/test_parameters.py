"""Each parameter of `image_lora` has an effect on the computation, and the right one where it can be said shortly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny_sd import build_tiny_sd
from tests.trainers.job import SHA256, Job, job_make
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.checkpoint import checkpoint_load
from trainers.core.noise import Purpose, uniform

COMMON: dict[str, Any] = {"trigger_word": "sks", "train_batch_size": 2}
SIZES = ((96, 64), (64, 80), (128, 128), (72, 64))
CHANGES_THE_LOSS: dict[str, dict[str, Any]] = {
    "trigger_word": {"trigger_word": "abc"},
    "train_batch_size": {"train_batch_size": 1},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "seed": {"seed": 42 + 2**32},
    "learning_rate": {"learning_rate": 2e-2},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.5},
    "adam_weight_decay": {"adam_weight_decay": 0.5},
    "adam_epsilon": {"adam_epsilon": 1e-2},
    "max_grad_norm": {"max_grad_norm": 1e-6},
    "lr_scheduler": {"lr_scheduler": "cosine", "lr_warmup_steps": 0},
    "lr_warmup_steps": {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2},
    "resolution": {"resolution": 128},
    "center_crop": {"center_crop": False},
    "random_flip": {"random_flip": True},
    "image_interpolation_mode": {"image_interpolation_mode": "nearest"},
    "caption_dropout_rate": {"caption_dropout_rate": 1.0},
    "lora_r": {"lora_r": 4},
    "lora_alpha": {"lora_alpha": 32},
    "lora_dropout": {"lora_dropout": 0.5},
    "prediction_type": {"prediction_type": "v_prediction"},
    "snr_gamma": {"snr_gamma": 0.1},
    "noise_offset": {"noise_offset": 0.1},
    "mixed_precision": {"mixed_precision": "bf16"},
    "optimizer": {"optimizer": "lion"},
}
SHORT: dict[str, dict[str, Any]] = {
    "clip_skip": {"clip_skip": 1},
    "loss_type": {"loss_type": "huber"},
    "huber_c": {"loss_type": "huber", "huber_c": 1.0},
}
"""Those that show in the first step."""
EXAMPLES, BATCHES, DENOISING = "../data/test_examples.py", "../data/test_batches.py", "test_denoising.py"
METHOD = "test_method.py"
IN_OTHER_FILES = {
    "aspect_ratio_buckets": (BATCHES, "test_a_micro_batch_has_the_shape_of_its_images"),
    "color_jitter": (EXAMPLES, "test_each_kind_of_jitter_changes_the_images_alone"),
    "color_jitter_brightness": (EXAMPLES, "test_each_kind_of_jitter_changes_the_images_alone"),
    "color_jitter_contrast": (EXAMPLES, "test_each_kind_of_jitter_changes_the_images_alone"),
    "color_jitter_saturation": (EXAMPLES, "test_each_kind_of_jitter_changes_the_images_alone"),
    "color_jitter_hue": (EXAMPLES, "test_each_kind_of_jitter_changes_the_images_alone"),
    "random_rotation": (EXAMPLES, "test_rotation_turns_the_stated_share_by_the_stated_angle"),
    "rotation_degrees": (EXAMPLES, "test_rotation_turns_the_stated_share_by_the_stated_angle"),
    "rotation_prob": (EXAMPLES, "test_rotation_turns_the_stated_share_by_the_stated_angle"),
    "caption_shuffle": (EXAMPLES, "test_a_shuffled_caption_changes_order_behind_its_fixed_part"),
    "keep_tokens": (EXAMPLES, "test_a_shuffled_caption_changes_order_behind_its_fixed_part"),
    "split": ("../../test_splits.py", "test_images_in_folders_of_splits_are_not_pooled"),
    "repeats": (BATCHES, "test_an_epoch_sees_each_dataset_as_often_as_it_repeats"),
    "masked_loss": (EXAMPLES, "test_the_loss_is_weighted_in_latent_resolution"),
    "mask_column": (EXAMPLES, "test_the_loss_is_weighted_in_latent_resolution"),
    "unmasked_weight": (EXAMPLES, "test_the_loss_is_weighted_in_latent_resolution"),
    "cache_latents": (EXAMPLES, "test_caches_do_not_change_any_bit"),
    "cache_text_embeddings": (EXAMPLES, "test_caches_do_not_change_any_bit"),
    "class_prompt": (BATCHES, "test_class_captions_are_never_dropped"),
    "num_class_images": (BATCHES, "test_generated_class_images_complete_those_of_the_dataset"),
    "prior_weight": (BATCHES, "test_images_and_class_images_are_counted_apart"),
    "prior_preservation": (METHOD, "test_the_base_makes_class_images_once_per_host"),
    "flux_guidance": (DENOISING, "test_flux_gets_the_guidance"),
    "max_sequence_length": ("../models/test_families.py", "test_max_sequence_length_is_what_t5_reads"),
    "timestep_sampling": (BATCHES, "test_the_requested_timestep_sampling_is_used"),
    "timestep_shift": (BATCHES, "test_the_shift_is_the_familys_or_the_parameter"),
    "lora_targets": (METHOD, "test_convolutions_and_dora_change_what_is_learnt"),
    "conv_rank": (METHOD, "test_convolutions_and_dora_change_what_is_learnt"),
    "use_dora": (METHOD, "test_convolutions_and_dora_change_what_is_learnt"),
    "train_text_encoder": (METHOD, "test_text_encoder_pairs_have_their_own_learning_rate"),
    "text_encoder_learning_rate": (METHOD, "test_text_encoder_learning_rate_does_not_affect_the_network"),
    "base_quantization": (METHOD, "test_a_quantised_base_trains_near_the_plain_one"),
    "gradient_checkpointing": (METHOD, "test_checkpointing_computes_blocks_twice_to_the_same_losses"),
    "attention": (METHOD, "test_missing_xformers_is_reported_with_its_extra"),
    "compile": (METHOD, "test_a_compiled_network_has_the_gradients_of_the_plain_one"),
    "use_ema": (METHOD, "test_the_average_is_exported_and_the_raw_weights_stay"),
    "ema_decay": ("../../core/test_optim.py", "test_the_decay_warms_up_to_the_requested_one"),
    "no_metadata": (METHOD, "test_no_metadata_removes_the_training_from_the_kohya_file"),
    "log_to_wandb": ("../../optional/test_wandb.py", "test_a_job_without_a_key_keeps_its_run_in_files"),
    "wandb_project": ("../../optional/test_wandb.py", "test_a_job_without_a_key_keeps_its_run_in_files"),
    "secrets": (
        "../../../worker/attempt/test_secrets.py",
        "test_the_trainer_has_them_and_log_events_finish_and_disk_do_not",
    ),
}
ELSEWHERE = {
    "adaptor_name": "test_the_header_of_the_adaptor_says_how_to_load_it",
    "num_train_epochs": "test_epochs_become_steps_and_max_train_steps_wins",
    "max_train_steps": "test_epochs_become_steps_and_max_train_steps_wins",
    "checkpoint_every_steps": "test_checkpoints_follow_their_interval_and_their_limit",
    "keep_checkpoints": "test_checkpoints_follow_their_interval_and_their_limit",
    "image_column": "test_columns_are_read_by_their_parameters",
    "caption_column": "test_columns_are_read_by_their_parameters",
    "eval_prompt": "test_each_prompt_gives_an_image_at_step_0_each_interval_and_the_end",
    "eval_every_steps": "test_each_prompt_gives_an_image_at_step_0_each_interval_and_the_end",
    "eval_every_epochs": "test_evaluation_by_epochs",
    "eval_negative_prompt": "test_settings_of_the_evaluation_change_its_images_and_nothing_else",
    "eval_num_inference_steps": "test_settings_of_the_evaluation_change_its_images_and_nothing_else",
    "eval_guidance_scale": "test_settings_of_the_evaluation_change_its_images_and_nothing_else",
    "eval_seed": "test_settings_of_the_evaluation_change_its_images_and_nothing_else",
    "validation_split": "test_held_out_images_give_a_validation_loss_and_are_not_trained_on",
    "log_to_tensorboard": "test_tensorboard_files_hold_the_loss",
}


def test_every_parameter_is_shown_here_to_have_an_effect() -> None:
    shown = CHANGES_THE_LOSS.keys() | SHORT.keys() | ELSEWHERE.keys() | IN_OTHER_FILES.keys()
    assert shown == set(ImageLoraParams.model_fields)
    assert all(name in globals() for name in ELSEWHERE.values())
    for file, name in IN_OTHER_FILES.values():
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), f"{file} has no {name}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Job:
    """The job that each changed one is compared with."""
    job = job_make(tmp_path_factory.mktemp("plain") / "job", tiny_sd, shared_cache, sizes=SIZES)
    assert job.spec(**COMMON).run() == 0
    return job


@pytest.mark.parametrize("name", CHANGES_THE_LOSS)
def test_a_changed_value_changes_the_loss_curve(name: str, plain: Job, make_job: Callable[..., Job]) -> None:
    job = make_job(sizes=SIZES)
    assert job.spec(**(COMMON | CHANGES_THE_LOSS[name])).run() == 0
    assert name in CHANGES_THE_LOSS[name]
    assert list(job.losses().values()) != list(plain.losses().values())


@pytest.mark.parametrize("name", SHORT)
def test_a_changed_value_changes_the_first_loss(name: str, plain: Job, make_job: Callable[..., Job]) -> None:
    job = make_job(sizes=SIZES)
    assert job.spec(**COMMON, **SHORT[name], max_train_steps=1).run() == 0
    assert name in SHORT[name]
    assert job.losses()[1] != plain.losses()[1]


def test_an_equal_job_has_the_equal_curve_and_adaptor(plain: Job, make_job: Callable[..., Job]) -> None:
    job = make_job(sizes=SIZES)
    assert job.spec(**COMMON).run() == 0
    assert job.losses() == plain.losses()
    assert job.adaptor == plain.adaptor


@pytest.mark.parametrize(
    ("changed", "neutral"),
    [
        ({"trigger_word": "sks", "caption_dropout_rate": 0.0}, {"trigger_word": "sks"}),
        ({"noise_offset": 0.0}, {}),
        ({"snr_gamma": 100.0, "prediction_type": "epsilon"}, {"snr_gamma": 100.0}),
    ],
)
def test_equivalent_values_give_equal_loss_curves(
    changed: dict[str, Any], neutral: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    first, second = make_job("first").spec(**changed), make_job("second").spec(**neutral)
    assert first.run() == second.run() == 0
    assert first.losses() == second.losses()


def test_a_dropped_caption_keeps_the_trigger_word(make_job: Callable[..., Job]) -> None:
    dropped, bare = make_job("dropped"), make_job("bare")
    for path in bare.dataset.glob("*.txt"):
        path.write_text("")
    assert dropped.spec(trigger_word="sks", caption_dropout_rate=1.0).run() == 0
    assert bare.spec(trigger_word="sks").run() == 0
    assert dropped.losses() == bare.losses()


def test_the_stated_share_of_captions_is_dropped() -> None:
    draws = [uniform(42, Purpose.CAPTION_DROPOUT, step, 0) < 0.3 for step in range(4000)]
    assert sum(draws) / len(draws) == pytest.approx(0.3, abs=0.02)


def test_epochs_become_steps_and_max_train_steps_wins(make_job: Callable[..., Job]) -> None:
    by_epochs, by_steps = make_job("epochs"), make_job("steps")
    assert by_epochs.spec(max_train_steps=None, num_train_epochs=2, train_batch_size=3).run() == 0
    assert list(by_epochs.losses()) == [1, 2, 3, 4]  # 4 images: one whole and one short batch an epoch
    assert [step.epoch for step in by_epochs.of_kind("step")] == [0.5, 1.0, 1.5, 2.0]
    assert by_steps.spec(max_train_steps=1).run() == 0
    assert list(by_steps.losses()) == [1]


def test_checkpoints_follow_their_interval_and_their_limit(job: Job) -> None:
    assert job.spec(max_train_steps=7, checkpoint_every_steps=2, keep_checkpoints=2).run() == 0
    assert [event.step for event in job.of_kind("checkpoint")] == [2, 4, 6, 7]
    checkpoints = sorted(path.name for path in (job.out / "checkpoints").iterdir())
    assert checkpoints == ["step-00000006", "step-00000007"]


def test_columns_are_read_by_their_parameters(make_job: Callable[..., Job]) -> None:
    sidecars, columns = make_job("sidecars"), make_job("columns")
    rows = [{"bild": f"{i}.png", "titel": path.read_text()} for i, path in enumerate(captions_of(columns))]
    columns.dataset.joinpath("metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sidecars.run() == columns.spec(image_column="bild", caption_column="titel").run() == 0
    assert sidecars.losses() == columns.losses()


def captions_of(job: Job) -> list[Path]:
    return sorted(job.dataset.glob("*.txt"))


EVALUATION: dict[str, Any] = {"eval_prompt": "a cat\na dog", "eval_num_inference_steps": 2, "eval_every_steps": 2}


def test_each_prompt_gives_an_image_at_step_0_each_interval_and_the_end(job: Job) -> None:
    assert job.spec(max_train_steps=5, **EVALUATION).run() == 0
    samples = job.of_kind("sample")
    assert [(sample.step, sample.prompt) for sample in samples] == [
        (step, prompt) for step in (0, 2, 4, 5) for prompt in ("a cat", "a dog")
    ]
    images = {sample.step: (job.out / sample.path).read_bytes() for sample in samples if sample.prompt == "a cat"}
    assert len(set(images.values())) == 4  # the live weights were used
    assert [sample["path"] for sample in job.manifest["samples"]] == [sample.path for sample in samples]


def test_evaluation_by_epochs(job: Job) -> None:
    settings = {**EVALUATION, "eval_every_steps": None, "eval_every_epochs": 2}
    assert job.spec(max_train_steps=None, num_train_epochs=4, train_batch_size=4, **settings).run() == 0
    assert sorted({sample.step for sample in job.of_kind("sample")}) == [0, 2, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"eval_negative_prompt": "photo"},
        {"eval_num_inference_steps": 4},
        {"eval_guidance_scale": 2.0},
        {"eval_seed": 7},
    ],
)
def test_settings_of_the_evaluation_change_its_images_and_nothing_else(
    change: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    usual, changed = make_job("usual"), make_job("changed")
    assert usual.spec(**{**EVALUATION, "max_train_steps": 1}).run() == 0
    assert changed.spec(**{**EVALUATION, "max_train_steps": 1, **change}).run() == 0
    first = "samples/step-00000000-0.png"
    assert pixels_of(usual.out / first) != pixels_of(changed.out / first)
    assert usual.losses() == changed.losses()


def pixels_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_held_out_images_give_a_validation_loss_and_are_not_trained_on(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert job.spec(validation_split=0.25, eval_every_steps=2, max_train_steps=3).run() == 0
    assert [event.step for event in job.of_kind("validation")] == [0, 2, 3]
    losses = [event.metrics["loss"] for event in job.of_kind("validation")]
    assert len(set(losses)) == 3
    (held_out,) = job.of_kind("started")[0].details["held_out"]
    assert job.of_kind("started")[0].details["images"] == 3
    alone = make_job("alone")
    alone.dataset.joinpath(held_out).unlink()
    assert alone.spec(max_train_steps=3).run() == 0
    assert alone.losses() == job.losses()


def test_tensorboard_files_hold_the_loss(make_job: Callable[..., Job]) -> None:
    silent, explicit = make_job("silent"), make_job("explicit")
    assert silent.run() == explicit.spec(log_to_tensorboard=True, **EVALUATION).run() == 0
    assert not (silent.out / "tensorboard").exists()
    board = EventAccumulator(str(explicit.out / "tensorboard")).Reload()
    assert [point.value for point in board.Scalars("train/loss")] == pytest.approx(list(explicit.losses().values()))
    assert board.Tags()["images"] == ["prompt 1", "prompt 2"]


def test_the_header_of_the_adaptor_says_how_to_load_it(job: Job) -> None:
    assert job.spec(adaptor_name="my-cat", trigger_word="sks").run() == 0
    with safe_open(job.out / "adaptor" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        header = file.metadata()
    assert (header["name"], header["trigger_word"], header["prediction_type"]) == ("my-cat", "sks", "epsilon")
    assert header["base_sha256"] == SHA256
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == 16


def test_the_prediction_type_defaults_to_that_of_the_base(
    tmp_path: Path, shared_cache: Path, make_job: Callable[..., Job]
) -> None:
    velocity = build_tiny_sd(tmp_path / "velocity", prediction_type="v_prediction")
    of_base = job_make(tmp_path / "of_base", velocity, shared_cache)
    explicit = make_job("explicit").spec(prediction_type="v_prediction")
    assert of_base.run() == explicit.run() == 0
    assert of_base.losses() == explicit.losses()
    assert of_base.manifest["prediction_type"] == "v_prediction"


def test_epsilon_is_refused_with_zero_terminal_snr(tmp_path: Path, shared_cache: Path) -> None:
    base = build_tiny_sd(tmp_path / "base", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    refused = job_make(tmp_path / "refused", base, shared_cache).spec(prediction_type="epsilon")
    assert refused.run() == 1
    assert refused.failure().reason.code == "bad_parameters"
    assert "v_prediction" in refused.failure().reason.message
    assert job_make(tmp_path / "fine", base, shared_cache).spec(snr_gamma=5.0).run() == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_lora_and_optimizer_in_fp32(precision: str, job: Job) -> None:
    assert job.spec(mixed_precision=precision, max_train_steps=2).run() == 0
    loaded = checkpoint_load(job.out / "checkpoints" / "step-00000002")
    assert {t.dtype for part in ("weights", "optimizer") for t in loaded.tensors[part].values()} == {torch.float32}
    assert ("loss_scale" in job.of_kind("step")[0].metrics) == (precision == "fp16")


def test_the_default_precision_is_full_on_the_cpu_bit_for_bit(make_job: Callable[..., Job]) -> None:
    default, full = make_job("default"), make_job("full").spec(mixed_precision="no")
    assert default.run() == full.run() == 0
    assert default.adaptor == full.adaptor and default.losses() == full.losses()
    assert default.manifest["params"]["mixed_precision"] == "auto"


def test_half_precision_stays_near_the_full_one(make_job: Callable[..., Job]) -> None:
    full = make_job("full")
    assert full.run() == 0
    for precision, tolerance in (("fp16", 2e-3), ("bf16", 2e-2)):
        half = make_job(precision).spec(mixed_precision=precision)
        assert half.run() == 0
        assert list(half.losses().values()) == pytest.approx(list(full.losses().values()), rel=tolerance)
