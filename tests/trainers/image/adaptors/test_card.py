import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from tests.trainers.image.adaptors.pairs import in_blocks, random_pairs
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.file import adaptor_write
from trainers.image.models.families import load_base

EXAMPLE_BASE = Path(__file__).resolve().parents[4] / "examples" / "shapes" / "base"
PARAMS = {"adaptor_name": "my-dog", "trigger_word": "sks", "lora_r": 8, "lora_alpha": 16, "eval_prompt": "a dog | red"}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "samples" / "step-00000010-0.png"
    path.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def manifest(**changes: Any) -> dict[str, Any]:
    full = {
        "params": PARAMS,
        "inputs": {"model": {"name": "shapes@1"}},
        "outcome": "succeeded",
        "metrics": {"loss": 0.125},
        "samples": [{"path": "samples/step-00000010-0.png", "prompt": 'a "dog": red'}],
    }
    return full | changes


def card(folder: Path, samples: list[Path] | None = None, **changes: Any) -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    text = card_write(folder / "adaptor", manifest(**changes), samples or []).read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    head, _ = card(tmp_path)
    assert head == {
        "base_model": "shapes@1",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "diffusers", "text-to-image"],
        "instance_prompt": "sks",
    }


@pytest.mark.parametrize("trigger", ['with "quotes"', "colon: and # hash", "- dash", "日本 🐕", "back\\slash", "yes"])
def test_whatever_a_person_typed_survives_in_the_front_matter(tmp_path: Path, trigger: str) -> None:
    head, _ = card(tmp_path, params=PARAMS | {"trigger_word": trigger})
    assert head["instance_prompt"] == trigger


def test_without_a_trigger_there_is_no_instance_prompt(tmp_path: Path) -> None:
    head, body = card(tmp_path, params=PARAMS | {"trigger_word": ""})
    assert "instance_prompt" not in head
    assert 'pipeline("a photo")' in body


def test_images_are_linked_relative_to_the_card(tmp_path: Path, sample: Path) -> None:
    head, body = card(tmp_path, [sample])
    link = "images/step-00000010-0.png"
    assert head["widget"] == [{"text": 'a "dog": red', "output": {"url": link}}]
    assert f"]({link})" in body
    assert (tmp_path / "adaptor" / link).read_bytes() == sample.read_bytes()


def test_every_parameter_and_the_result_are_listed(tmp_path: Path) -> None:
    _, body = card(tmp_path)
    for name, value in PARAMS.items():
        assert f"| {name} | {json.dumps(value).replace('|', chr(92) + '|')} |" in body
    assert "| loss | 0.125 |" in body


def test_the_code_shows_how_to_load_with_the_trigger(tmp_path: Path) -> None:
    _, body = card(tmp_path)
    (code,) = [part.removeprefix("python") for part in body.split("```") if part.startswith("python")]
    compile(code, "card", "exec")
    assert "load_lora_weights" in code and '"sks, a photo"' in code and "prediction_type" not in code


def test_an_override_of_the_prediction_type_is_in_the_code(tmp_path: Path) -> None:
    _, body = card(tmp_path, params=PARAMS | {"prediction_type": "v_prediction"})
    assert 'prediction_type="v_prediction"' in body


@pytest.mark.parametrize(("family", "last"), [("sd1", -2), ("sd2", -3), ("sdxl", -3)])
def test_clip_skip_is_stated_for_diffusers_and_for_comfyui(tmp_path: Path, family: str, last: int) -> None:
    """ComfyUI's -1 is the last layer; SD 2.x, whose last layer diffusers has not, and SDXL begin at the one before."""
    _, body = card(tmp_path, params=PARAMS | {"clip_skip": 1}, family=family)
    assert "clip_skip=1)" in body and f"CLIP Set Last Layer to {last}." in body
    assert "CLIP Set Last Layer" not in card(tmp_path, params=PARAMS | {"clip_skip": 0}, family=family)[1]


def test_a_stopped_job_says_so(tmp_path: Path) -> None:
    assert "stopped before its end" not in card(tmp_path)[1]
    assert "stopped before its end" in card(tmp_path, outcome="stopped")[1]


def test_writing_again_replaces_the_card_and_its_images(tmp_path: Path, sample: Path) -> None:
    card(tmp_path, [sample], outcome="stopped")
    later = sample.rename(sample.with_name("step-00000020-0.png"))
    _, body = card(tmp_path, [later])
    assert "stopped" not in body
    assert [path.name for path in (tmp_path / "adaptor" / "images").iterdir()] == [later.name]
    assert sorted(path.name for path in (tmp_path / "adaptor").iterdir()) == ["README.md", "images"]


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("sd1", "StableDiffusionPipeline"),
        ("sd2", "StableDiffusionPipeline"),
        ("sdxl", "StableDiffusionXLPipeline"),
        ("sd3", "StableDiffusion3Pipeline"),
        ("flux", "FluxPipeline"),
    ],
)
def test_the_usage_names_the_pipeline_of_the_family(tmp_path: Path, family: str, pipeline: str) -> None:
    _, body = card(tmp_path, family=family)
    assert f"from diffusers import {pipeline}\n" in body and f"{pipeline}.from_pretrained" in body
    compile(body.split("```python\n")[1].split("```")[0], "usage", "exec")


def test_the_card_names_both_files_and_the_text_encoder_only_where_it_was_trained(tmp_path: Path) -> None:
    _, plain = card(tmp_path)
    _, trained = card(tmp_path, params=PARAMS | {"train_text_encoder": True})
    assert "pytorch_lora_weights.safetensors" in plain and "kohya.safetensors" in plain
    assert "text encoder" not in plain and "text encoder" in trained


def test_no_metadata_leaves_the_training_table_out(tmp_path: Path) -> None:
    assert "## Training" in card(tmp_path)[1]
    assert "## Training" not in card(tmp_path, params=PARAMS | {"no_metadata": True})[1]


def test_the_card_of_an_import_has_trigger_and_prediction_type_of_the_file(tmp_path: Path) -> None:
    head, body = card(
        tmp_path,
        method="import_adaptor",
        params={"adaptor_name": "dog", "trigger_word": ""},
        trigger_word="sks",
        prediction_type="v_prediction",
    )
    assert head["instance_prompt"] == "sks" and "imported with Anneal" in body
    assert 'prediction_type="v_prediction"' in body


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({"lora_targets": "all-linear"}, "without the pairs outside the blocks, as those of `time_embedding`;"),
        ({"use_dora": True}, "without the magnitudes of DoRA;"),
        ({"lora_targets": "all-linear", "use_dora": True}, "`time_embedding` and the magnitudes of DoRA;"),
        ({"lora_targets": "attention+ff", "use_dora": False}, ""),
    ],
)
def test_the_card_names_layers_that_sd_scripts_ignores(tmp_path: Path, changes: dict[str, Any], unread: str) -> None:
    _, body = card(tmp_path, params=PARAMS | changes)
    assert unread in body and ("sd-scripts reads the second file without" in body) == bool(unread)


def test_the_card_shows_resolved_values_of_unset_parameters(tmp_path: Path) -> None:
    body = manifest(params=PARAMS | {"learning_rate": None, "lora_r": 4})
    text = card_write(tmp_path, body, effective={"learning_rate": 1e-4, "lora_r": 9}).read_text(encoding="utf-8")
    assert "| learning_rate | 0.0001 |" in text and "| lora_r | 4 |" in text


def test_the_code_of_the_card_runs_on_the_example_base_whose_parts_differ_in_dtype(tmp_path: Path) -> None:
    base = load_base(EXAMPLE_BASE, torch.float32)
    adaptor_write(base, tmp_path, random_pairs(base, in_blocks), metadata={})
    text = card_write(tmp_path, manifest()).read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    for placeholder, value in (
        ("path/to/the/base/model", str(EXAMPLE_BASE)),
        ("path/to/this/folder", str(tmp_path)),
        ('"sks, a photo")', '"sks, a photo", num_inference_steps=1)'),
    ):
        assert placeholder in code
        code = code.replace(placeholder, value)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["image"].size == (64, 64) and names["pipeline"].get_active_adapters()
