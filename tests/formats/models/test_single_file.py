"""What a single-file checkpoint says of itself, by names and shapes alone."""

from typing import NamedTuple

import pytest

from formats.models.image_families import scheduler_config_clean
from formats.models.single_file import checkpoint_of, index_of, scheduler_of

UNET = "model.diffusion_model."


class Shape(NamedTuple):
    shape: tuple[int, ...]


def sd(family: str, *marks: str) -> dict[str, Shape]:
    names = {
        f"{UNET}input_blocks.0.0.weight": Shape((320, 4, 3, 3)),
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": Shape((1280, 1024 if family == "sd2" else 768)),
    }
    label = {f"{UNET}label_emb.0.0.weight": Shape((1280, 2816))} if family == "sdxl" else {}
    return {**names, **label, **{mark: Shape((0,)) for mark in marks}}


V = {"modelspec.prediction_type": "v"}
SD2_V, SD2 = ({"modelspec.architecture": f"stable-diffusion-v2-{kind}"} for kind in ("768-v", "512"))


@pytest.mark.parametrize(
    ("family", "marks", "metadata", "flag", "expected"),
    [
        ("sd1", (), {}, "", ("PNDMScheduler", "epsilon", False)),
        ("sd1", (), V, "", ("PNDMScheduler", "v_prediction", False)),
        ("sd1", (), V, "epsilon", ("PNDMScheduler", "epsilon", False)),
        ("sd1", ("v_pred", "ztsnr"), {}, "", ("DDIMScheduler", "v_prediction", True)),
        ("sd1", ("v_pred", "ztsnr"), {}, "epsilon", ("PNDMScheduler", "epsilon", False)),
        ("sd1", ("ztsnr",), {}, "", ("PNDMScheduler", "epsilon", False)),
        ("sd2", (), SD2_V, "", ("DDIMScheduler", "v_prediction", False)),
        ("sd2", (), SD2, "", ("DDIMScheduler", "epsilon", False)),
        ("sd2", (), {}, "v_prediction", ("DDIMScheduler", "v_prediction", False)),
        ("sdxl", ("v_pred",), {}, "", ("EulerDiscreteScheduler", "v_prediction", False)),
        ("sdxl", ("v_pred", "ztsnr"), {}, "", ("EulerDiscreteScheduler", "v_prediction", True)),
    ],
)
def test_the_prediction_type_comes_from_the_file_or_the_parameter(
    family: str, marks: tuple[str, ...], metadata: dict[str, str], flag: str, expected: tuple[str, str, bool]
) -> None:
    names = sd(family, *marks)
    checkpoint = checkpoint_of(names, metadata)
    assert checkpoint is not None and checkpoint.family == family
    assert checkpoint.needs_prediction_type == (family == "sd2" and not metadata)
    scheduler = scheduler_of(checkpoint, names, flag)
    assert not scheduler_config_clean(scheduler, "x").ignored
    is_rescaled = scheduler.get("rescale_betas_zero_snr", False)
    assert (scheduler["_class_name"], scheduler["prediction_type"], is_rescaled) == expected
    assert index_of(family, scheduler)["scheduler"] == ["diffusers", expected[0]]


def test_the_index_of_sd3_without_t5_says_so() -> None:
    index = index_of("sd3", {"_class_name": "X"}, has_t5=False)
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    assert index["tokenizer_2"] == ["transformers", "CLIPTokenizer"]


def test_flux_checkpoints_are_recognised_with_their_missing_parts() -> None:
    marks = ("img_in.weight", "double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight")
    network = {name: Shape((3072, 64)) for name in marks}
    bare = checkpoint_of(network)
    assert bare is not None and (bare.family, bare.parts) == ("flux", {"transformer": ""})
    assert bare.missing == ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    names = ("vae.encoder.conv_in.weight", "text_encoders.clip_l.transformer.x", "text_encoders.t5xxl.transformer.y")
    prefixed = {f"{UNET}{name}": shape for name, shape in network.items()}
    complete = checkpoint_of(prefixed | {name: Shape((1,)) for name in names})
    assert complete is not None and complete.missing == ("tokenizer", "tokenizer_2")
