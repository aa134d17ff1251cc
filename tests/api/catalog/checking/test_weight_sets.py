"""A LoRA that was made elsewhere, uploaded as a dataset to be imported."""

import math
from typing import Any

import pytest

from api.catalog.checking.dataset import check
from api.catalog.checking.model import check as model_check
from api.catalog.checking.report import Refused
from tests.api.actors import png
from tests.api.catalog.checking.conftest import WorkOf
from tests.api.catalog.checking.test_weights import weights

PAIRS = {
    "kohya": ("lora_unet_to_q.lora_down.weight", "lora_unet_to_q.lora_up.weight"),
    "peft": ("unet.to_q.lora_A.weight", "unet.to_q.lora_B.weight"),
    "before peft": ("unet.processor.to_q_lora.down.weight", "unet.processor.to_q_lora.up.weight"),
}


def lora(names: tuple[str, str], rank: int = 4) -> bytes:
    down, up = ("F16", (rank, 8), bytes(16 * rank)), ("F16", (8, rank), bytes(16 * rank))
    return weights(**{names[0]: down, names[1]: up})


@pytest.mark.parametrize("names", PAIRS.values(), ids=PAIRS)
def test_a_lora_is_a_dataset_of_weights(work_of: WorkOf, names: tuple[str, str]) -> None:
    details = check(work_of({"style.safetensors": lora(names), "adapter_config.json": b"{}"}))
    assert (details["kind"], details["num_modules"], details["ranks"]) == ("weights", 1, [4])


@pytest.mark.parametrize(
    ("name", "kind"), [("x.hada_w1_a", "LoHa"), ("x.lokr_w1", "LoKr"), ("x.oft_blocks", "OFT"), ("x.weight", "no LoRA")]
)
def test_what_is_no_lora_is_named(work_of: WorkOf, name: str, kind: str) -> None:
    with pytest.raises(Refused, match=kind) as caught:
        check(work_of({"x.safetensors": weights(**{name: ("F16", (4, 8), bytes(64))})}))
    assert caught.value.code == "not_a_lora"


def test_a_lora_with_values_that_are_not_finite_is_refused(work_of: WorkOf) -> None:
    with pytest.raises(Refused, match="1 of 2 values that are not finite"):
        check(work_of({"x.safetensors": weights(**{"a.lora_down.weight": ("F16", (2, 1), b"\0\x7c\0\0")})}))


def test_images_beside_weights_are_a_dataset_of_images(work_of: WorkOf) -> None:
    assert check(work_of({"x.safetensors": lora(PAIRS["peft"]), "a.png": png(8, 8)}))["kind"] == "images"


SDXL_KEYS = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.label_emb.0.0.weight",
    "first_stage_model.encoder.conv_in.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
)


def one_file(*keys: str) -> bytes:
    shapes = {key: (1, 4) if "input_blocks" in key else (1,) for key in keys}
    return weights(**{key: ("F32", shape, bytes(4 * math.prod(shape))) for key, shape in shapes.items()})


def test_a_checkpoint_in_one_file_is_a_set_of_weights_with_its_family(work_of: WorkOf) -> None:
    details = check(work_of({"adaptor.safetensors": one_file(*SDXL_KEYS)}))
    assert details["kind"] == "weights"
    assert details["checkpoint"] == {"family": "sdxl", "parts": ["text_encoder", "unet", "vae"]}


def test_a_checkpoint_in_one_file_is_refused_as_a_base_model_with_what_it_lacks(work_of: WorkOf) -> None:
    with pytest.raises(Refused) as caught:
        model_check(work_of({"xl.safetensors": one_file(*SDXL_KEYS)}))
    assert caught.value.code == "single_file" and "--components-from" in caught.value.hint
    assert str(caught.value) == (
        "xl.safetensors is a Stable Diffusion XL checkpoint in one file, which lacks text_encoder_2, tokenizer, "
        "tokenizer_2"
    )


@pytest.mark.parametrize("check_one", [check, model_check])
def test_a_relative_that_cannot_be_trained_is_refused_by_name(work_of: WorkOf, check_one: Any) -> None:
    refiner = one_file(*SDXL_KEYS, "conditioner.embedders.0.model.ln_final.weight")
    with pytest.raises(Refused, match=r"xl\.safetensors: expected an SDXL base, got the SDXL refiner") as caught:
        check_one(work_of({"xl.safetensors": refiner}))
    assert caught.value.code == "single_file"
