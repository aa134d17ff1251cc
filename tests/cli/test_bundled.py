"""The templates that come with Anneal."""

import pytest

from cli.commands.templates import bundled
from trainers.contract.params import params_class
from trainers.contract.params.image_lora import ImageLoraParams

BUNDLED = bundled()


def test_each_set_comes_for_each_base() -> None:
    result = {
        (content["fetch"]["dataset"]["repo"], content["fetch"]["model"]["family"]) for content in BUNDLED.values()
    }
    repos = ("datasets-examples/doc-image-6", "Norod78/simpsons-blip-captions")
    assert result == {(repo, family) for repo in repos for family in ("sd1", "sdxl")}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_template_is_valid_and_fetches_what_it_names(name: str) -> None:
    content = BUNDLED[name]
    template, fetch = content["template"], content["fetch"]
    params = params_class(template["method"]).model_validate(template["params"])
    assert not params.family_problem(fetch["model"]["family"])
    for role in ("dataset", "model"):
        expected = params_class(f"fetch_{role}").model_validate(fetch[role])
        assert (template[role], expected.model_dump()["revision"]) == (expected.product_name, fetch[role]["revision"])
    assert template["name"] == template["params"]["adaptor_name"] == name


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_template_evaluates_about_8_times_at_20_steps(name: str) -> None:
    params = ImageLoraParams.model_validate(BUNDLED[name]["template"]["params"])
    assert params.max_train_steps and params.eval_every_steps
    assert params.max_train_steps / params.eval_every_steps == 8
    assert params.eval_num_inference_steps == 20
    assert not [message for message in params.warnings() if "eval" in message]
