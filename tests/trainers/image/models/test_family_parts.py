"""The parts of every family's base: saved, shared with pipelines, chosen as targets, refused where they do not fit."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base, TargetKind
from trainers.image.models.families import base_save, image_family, load_base

STOCK: Any = DiffusionPipeline


@pytest.fixture(scope="session")
def loaded(tiny_base: Callable[[str], Path]) -> Callable[[str], Base]:
    """Base of a kind, in fp32. Its weights are not to be changed."""
    return cache(lambda kind: load_base(tiny_base(kind), torch.float32))


@pytest.fixture
def spoilt(tiny_base: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str, dict[str, Any]], str]:
    """Changes a part's config in a copy of a base; what is said when it is opened."""

    def message(kind: str, path: str, changes: dict[str, Any]) -> str:
        folder = Path(shutil.copytree(tiny_base(kind), tmp_path / kind))
        config = json.loads((folder / path).read_text()) | changes
        (folder / path).write_text(json.dumps(config))
        return refusal(folder)

    return message


def refusal(folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        load_base(folder, torch.float32)
    assert caught.value.reason.code == ReasonCode.BAD_BASE_MODEL
    return str(caught.value)


@pytest.mark.parametrize("kind", ["sd2", "sdxl", "sd3_without_t5", "sd35", "flux"])
def test_a_saved_base_is_opened_with_equal_weights_by_us_and_by_diffusers(
    kind: str, loaded: Callable[[str], Base], tmp_path: Path
) -> None:
    base = loaded(kind)
    base_save(base, tmp_path)
    ours = load_base(tmp_path, torch.float32)
    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3_without_t5" else {}
    stock_base = STOCK.from_pretrained(tmp_path, use_safetensors=True, local_files_only=True, **absent)
    assert ours.scheduler_config == base.scheduler_config
    assert type(stock_base).__name__ == base.pipeline_class
    for name, part in base.parts().items():
        if isinstance(part, torch.nn.Module):
            assert_equal_weights(ours.parts()[name], part)
            assert_equal_weights(getattr(stock_base, name), part)


def assert_equal_weights(actual: torch.nn.Module, other: torch.nn.Module) -> None:
    state, expected = actual.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_sdxl_keeps_force_zeros_for_empty_prompt(tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base("sdxl"), tmp_path / "sdxl"))
    index = json.loads((folder / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_base(folder, torch.float32).pipeline().config.force_zeros_for_empty_prompt is False


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_a_vae_that_overflows_in_fp16_stays_in_fp32(kind: str, tiny_base: Callable[[str], Path]) -> None:
    half, brain = (load_base(tiny_base(kind), dtype) for dtype in (torch.float16, torch.bfloat16))
    assert half.vae.dtype == torch.float32 and half.network.dtype == torch.float16
    assert brain.vae.dtype == brain.network.dtype == torch.bfloat16


TARGETS = {
    "sd1": ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "ff.net.0.proj", "time_embedding.linear_1"),
    "sdxl": ("mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0", "ff.net.2", "add_embedding.linear_2"),
    "sd35": ("transformer_blocks.0.attn2.to_q", "ff_context.net.2", "time_text_embed.text_embedder.linear_1"),
    "flux": ("single_transformer_blocks.0.attn.to_v", "single_transformer_blocks.0.proj_mlp", "x_embedder"),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_grow_from_attention_to_all_linear_modules(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    sizes: tuple[TargetKind, ...] = ("attention", "attention+ff", "all-linear")
    actual = [image_family(base.family).targets(base.network, size, False) for size in sizes]
    assert set(actual[0]) < set(actual[1]) < set(actual[2])
    for index, ending in enumerate(TARGETS[kind]):
        assert any(name.endswith(ending) for name in actual[index])
        assert index == 0 or not any(name.endswith(ending) for name in actual[index - 1])
    linear = [n for n, module in base.network.named_modules() if isinstance(module, torch.nn.Linear)]
    assert actual[2] == sorted(linear)


def test_convolutions_are_targets_of_unets_alone(loaded: Callable[[str], Base]) -> None:
    plain, more = (image_family("sdxl").targets(loaded("sdxl").network, "attention", conv) for conv in (False, True))
    added = set(more) - set(plain)
    assert "down_blocks.0.resnets.0.conv1" in added and not added & {"conv_in", "conv_out"}
    for kind in ("sd3", "flux"):
        with pytest.raises(TrainerError, match="has no convolutions; set conv_rank=0"):
            image_family(kind).targets(loaded(kind).network, "attention", True)


@pytest.mark.parametrize(("kind", "counts"), [("sd1", [8]), ("sdxl", [12, 12]), ("sd3", [12, 12, 0]), ("flux", [8, 0])])
def test_text_targets_are_the_attention_of_clip(kind: str, counts: list[int], loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    actual = [image_family(base.family).text_targets(encoder) for encoder in base.text_encoders]
    assert [len(names) for names in actual] == counts
    assert any(name.endswith("encoder.layers.1.self_attn.out_proj") for name in actual[0])


@pytest.mark.parametrize(
    ("kind", "path", "changes", "text"),
    [
        (
            "sdxl",
            "unet/config.json",
            {"cross_attention_dim": 7},
            "hidden_size 96 but the unet has cross_attention_dim 7",
        ),
        ("sdxl", "unet/config.json", {"addition_time_embed_dim": 4}, "has width 72 but the unet has"),
        ("sdxl", "vae/config.json", {"latents_mean": [0.0] * 4}, "found latents_mean"),
        ("sd3", "transformer/config.json", {"joint_attention_dim": 9}, "d_model 64 but the transformer has"),
        ("sd3", "transformer/config.json", {"pooled_projection_dim": 9}, "projection_dim 48 but the transformer"),
        ("flux", "vae/config.json", {"latent_channels": 4}, "times 4 16 but the transformer has in_channels 64"),
        ("flux", "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "found DDIMScheduler"),
        (
            "sd1",
            "scheduler/scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "found FlowMatch",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_with_both_values(
    kind: str, path: str, changes: dict[str, Any], text: str, spoilt: Callable[[str, str, dict[str, Any]], str]
) -> None:
    assert text in spoilt(kind, path, changes)


@pytest.mark.parametrize(
    ("kind", "part"), [("sdxl", "text_encoder_2"), ("sd3", "text_encoder_3"), ("flux", "tokenizer_2")]
)
def test_a_missing_part_of_any_family_is_named(
    kind: str, part: str, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_base(kind), tmp_path / kind))
    shutil.rmtree(folder / part)
    assert f"the base model lacks {part};" in refusal(folder)
