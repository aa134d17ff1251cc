import importlib
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from trainers.contract.params import METHODS, params_class
from trainers.contract.params.base import Params
from trainers.contract.params.fetch import FetchParams
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.image_lora_rules import SWITCHES
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.params.sample_text import DecodingParams


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ImageLoraParams(adaptor_name="dog", **values)
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_describes_itself(method: str) -> None:
    params = params_class(method)
    assert params.method == method
    assert params.summary.endswith(".")
    roles = {"dataset", "model", "adaptors", "further_datasets", "class_dataset"}
    assert set(params.requires) | set(params.accepts) <= roles


@pytest.mark.parametrize("method", METHODS)
def test_the_entry_of_a_method_exists(method: str) -> None:
    module, _, function = params_class(method).entry.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_has_help_and_places_have_no_default(method: str) -> None:
    for name, field in params_class(method).model_fields.items():
        assert field.description, name


def test_an_unknown_method_is_refused_with_the_list_of_methods() -> None:
    with pytest.raises(ValueError, match=r"known methods: .*image_lora, .*sample_image"):
        params_class("image_magic")


def test_defaults_are_those_of_the_specification() -> None:
    params = ImageLoraParams(adaptor_name="dog")
    assert (params.rate, params.num_train_epochs, params.train_batch_size) == (1e-4, 100, 1)
    assert (params.lora_r, params.lora_alpha, params.resolution, params.seed) == (8, 16, 512, 42)


def test_a_warm_up_that_would_do_nothing_is_refused_with_both_fields_and_the_way_out() -> None:
    message = refusal(lr_scheduler="constant", lr_warmup_steps=10)
    assert "lr_warmup_steps=10" in message and "lr_scheduler='constant'" in message
    assert "choose lr_scheduler='constant_with_warmup'" in message


def test_a_warm_up_longer_than_the_job_is_refused() -> None:
    message = refusal(lr_scheduler="linear", lr_warmup_steps=20, max_train_steps=10)
    assert "lr_warmup_steps=20" in message and "max_train_steps=10" in message


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, 0),
        ({"lr_scheduler": "cosine"}, 50),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0}, 0),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 7}, 7),
    ],
)
def test_warm_up_steps_follow_the_schedule(values: dict[str, Any], steps: int) -> None:
    assert ImageLoraParams(adaptor_name="dog", **values).warmup_steps == steps


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({}, (1e-4, 1e-5)),
        ({"optimizer": "prodigy"}, (1.0, 1.0)),
        ({"optimizer": "lion"}, (3e-5, 3e-6)),
        ({"learning_rate": 2e-3}, (2e-3, 2e-4)),
        ({"train_text_encoder": True, "text_encoder_learning_rate": 1e-6}, (1e-4, 1e-6)),
    ],
)
def test_rates_follow_the_optimizer_unless_set(values: dict[str, Any], rates: tuple[float, float]) -> None:
    params = ImageLoraParams(adaptor_name="dog", **values)
    assert (params.rate, params.text_encoder_rate) == pytest.approx(rates)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_value_that_would_do_nothing_is_refused_with_both_fields_and_the_way_out(name: str) -> None:
    values: dict[str, Any] = {
        "keep_tokens": 2,
        "mask_column": "other",
        "class_prompt": "a dog",
        "num_class_images": 7,
        "wandb_project": "dogs",
        "secrets": ("key",),
        "optimizer": "adafactor",
        "ema_decay": 0.95,
        "rotation_degrees": 9,
    }
    switch = SWITCHES[name]
    idle = {switch.field: "adafactor"} if switch.field == "optimizer" else {}
    message = refusal(**{name: values.get(name, 0.05 if "weight" in name else 0.25), **idle})
    assert f"{name}=" in message and f"{switch.field}=" in message and "does nothing" in message


def test_prior_preservation_needs_the_class_prompt() -> None:
    assert "class_prompt" in refusal(prior_preservation=True)
    assert ImageLoraParams(adaptor_name="dog", prior_preservation=True, class_prompt="a dog").prior_weight == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"resolution": 500},
        {"learning_rate": float("nan")},
        {"learning_rate": 0},
        {"noise_offset": float("inf")},
        {"seed": 2**63},
        {"lora_r": 3},
        {"optimizer": "sgd"},
        {"snr_gamma": 0},
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    assert next(iter(values)) in refusal(**values)


def test_an_adaptor_name_cannot_leave_its_folder() -> None:
    with pytest.raises(ValidationError, match="adaptor_name"):
        ImageLoraParams(adaptor_name="../dog")


def test_prompts_are_one_a_line_without_empty_ones() -> None:
    assert ImageLoraParams(adaptor_name="dog", eval_prompt=" a dog \n\n a cat").eval_prompts == ["a dog", "a cat"]


def test_few_denoising_steps_cause_a_warning_if_samples_are_made() -> None:
    rough = ImageLoraParams(adaptor_name="dog", eval_prompt="a dog", eval_num_inference_steps=5)
    assert "eval_num_inference_steps=5" in rough.warnings()[0]
    assert rough.model_copy(update={"eval_prompt": ""}).warnings() == []


def test_nullable_parameters_default_to_null() -> None:
    """So that null in a request can take out what a template says."""
    fields = [(name, field) for cls in METHODS.values() for name, field in cls.model_fields.items()]
    nullable = [(name, field) for name, field in fields if type(None) in get_args(field.annotation)]
    assert nullable and all(field.default is None for _, field in nullable)


def test_params_are_frozen_and_base_is_the_only_parent_but_for_those_that_fetch_or_denoise_text() -> None:
    others = [cls for cls in METHODS.values() if not issubclass(cls, (FetchParams, DecodingParams))]
    assert all(cls.__bases__ == (Params,) for cls in others)
    with pytest.raises(ValidationError, match="frozen"):
        ImageLoraParams(adaptor_name="dog").seed = 7  # type: ignore[misc]


def test_a_warm_up_as_long_as_the_job_warns() -> None:
    short = {"adaptor_name": "a", "max_train_steps": 40, "lr_scheduler": "cosine"}
    assert "fills all 40 steps" in ImageLoraParams.model_validate(short).warnings()[0]
    assert ImageLoraParams.model_validate(short | {"lr_warmup_steps": 5}).warnings() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "learning_rate=0.0001 scales down"),
        ({"optimizer": "lion"}, "0.99 is usual"),
        ({"eval_prompt": "a", "eval_every_steps": 100}, "evaluating every 100 steps takes 50%"),
    ],
)
def test_probable_mistakes_cause_warnings_at_submit(values: dict[str, Any], message: str) -> None:
    assert message in " ".join(ImageLoraParams(adaptor_name="a", **values).warnings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_num_inference_steps": 20}, "eval_num_inference_steps=20 does nothing without eval_prompt"),
        ({"eval_seed": 7}, "eval_seed=7 does nothing without eval_prompt"),
        ({"eval_guidance_scale": 2.0}, "eval_guidance_scale=2.0 does nothing without eval_prompt"),
        ({"eval_negative_prompt": "x"}, "eval_negative_prompt='x' does nothing without eval_prompt"),
        ({"eval_every_steps": 5}, "eval_every_steps=5 does nothing without eval_prompt and validation_split"),
        ({"eval_prompt": "a", "eval_every_steps": 5, "eval_every_epochs": 2}, "eval_every_epochs=2 does nothing with"),
        (
            {"eval_prompt": "a", "eval_guidance_scale": 1.0, "eval_negative_prompt": "x"},
            "eval_negative_prompt='x' does nothing with eval_guidance_scale=1.0",
        ),
    ],
)
def test_settings_of_samples_that_are_not_made_are_refused(values: dict[str, Any], message: str) -> None:
    assert message in refusal(**values)


def test_parameters_that_a_family_lacks_are_named_at_submit() -> None:
    negative = ImageLoraParams(adaptor_name="a", eval_prompt="a", eval_negative_prompt="x")
    assert "eval_negative_prompt='x' does nothing with Flux.1" in negative.family_problem("flux")
    assert not negative.family_problem("sd3")
    spatial = ImageLoraParams(adaptor_name="a", conv_rank=4)
    assert all("conv_rank=4 does nothing" in spatial.family_problem(family) for family in ("sd3", "flux"))
    assert not spatial.family_problem("sdxl")


def test_flux_takes_its_guidance_in_one_forward() -> None:
    params = ImageLoraParams(adaptor_name="a", eval_prompt="a", eval_num_inference_steps=20)
    assert (params.eval_guidance("flux"), params.eval_guidance("sdxl")) == (3.5, 7.5)
    assert (params.evaluation_forwards("flux"), params.evaluation_forwards("sdxl")) == (20, 40)
    requests = params.model_copy(update={"eval_guidance_scale": 2.0})
    assert requests.eval_guidance("flux") == requests.eval_guidance("sd1") == 2.0


def test_with_epochs_the_job_itself_warns_about_frequent_evaluation() -> None:
    assert ImageLoraParams(adaptor_name="a", eval_prompt="a").warnings() == []


def test_an_evaluation_of_a_fifth_of_the_forwards_causes_no_warning() -> None:
    values = {"eval_prompt": "a", "eval_num_inference_steps": 20, "eval_every_steps": 160}
    assert ImageLoraParams(adaptor_name="a", **values).warnings() == []


def test_a_duration_that_another_one_overrides_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_train_epochs=2 does nothing with max_train_steps=5"):
        ImageLoraParams(adaptor_name="a", max_train_steps=5, num_train_epochs=2)
    with pytest.raises(ValidationError, match="train_steps=5 does nothing with num_train_epochs=2"):
        MaskedTextParams(adaptor_name="a", train_steps=5, num_train_epochs=2)


def test_blanks_in_gpu_ids_are_removed() -> None:
    assert MaskedTextParams(adaptor_name="a", gpu_ids="0, 1").gpu_ids == "0,1"


def test_a_name_of_another_tool_is_refused_and_ours_suggested() -> None:
    """`eval_steps` counts epochs there."""
    with pytest.raises(ValidationError, match="did you mean eval_every_epochs"):
        ImageLoraParams.model_validate({"adaptor_name": "a", "eval_steps": 1})
