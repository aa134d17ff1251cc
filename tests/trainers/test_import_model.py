"""Single-file checkpoints: tiny models in the original layout and back, and files that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from formats.single_file import checkpoint_of
from tests.trainers.original_layout import (
    clip_original,
    open_clip_original,
    sd3_original,
    unet_original,
    vae_original,
)
from tests.trainers.test_adaptor_jobs import ref
from trainers.models.load import load_base
from trainers.run import run

CLIP, OPEN = "cond_stage_model.transformer.", "conditioner.embedders.1.model."
TinyBase = Callable[[str], Path]


def part(base: Path, name: str) -> dict[str, Tensor]:
    (path,) = (base / name).glob("*.safetensors")
    return load_file(path)


def config(base: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((base / name / "config.json").read_text()))


def original(base: Path, family: str) -> dict[str, Tensor]:
    """All weights of `base` as its authors would lay them out in one file."""
    vae = vae_original(part(base, "vae"), len(config(base, "vae")["block_out_channels"]))
    if family == "sd3":
        return {
            **sd3_original(part(base, "transformer"), config(base, "transformer")["num_layers"]),
            **vae,
            **clip_original(part(base, "text_encoder"), "text_encoders.clip_l.transformer."),
            **clip_original(part(base, "text_encoder_2"), "text_encoders.clip_g.transformer."),
        }
    tensors = {**unet_original(part(base, "unet"), config(base, "unet")["layers_per_block"]), **vae}
    match family:
        case "sd1":
            tensors |= clip_original(part(base, "text_encoder"), CLIP)
        case "sd2":
            tensors |= open_clip_original(part(base, "text_encoder"), "cond_stage_model.model.")
        case "sdxl":
            tensors |= clip_original(part(base, "text_encoder"), "conditioner.embedders.0.transformer.")
            tensors |= open_clip_original(part(base, "text_encoder_2"), OPEN)
    return tensors


def imported(tmp_path: Path, base: Path, tensors: dict[str, Tensor]) -> tuple[int, Path]:
    inputs = tmp_path / "in"
    (inputs / "dataset").mkdir(parents=True)
    (inputs / "model").symlink_to(base)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, inputs / "dataset" / "adaptor.safetensors"
    )
    roles = {"model": ref("base"), "dataset": ref("file")}
    spec = {"name": "job", "method": "import_model", "params": {"name": "new"}, "inputs": roles}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return run(tmp_path / "spec.json", inputs, tmp_path / "out", tmp_path / "cache"), tmp_path / "out"


def failure(out: Path) -> str:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return str([event["data"]["reason"]["message"] for event in events if event["data"]["kind"] == "failed"][-1])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3"])
def test_a_model_in_one_file_comes_back_bit_for_bit(tiny_base: TinyBase, tmp_path: Path, family: str) -> None:
    base = tiny_base(family)
    tensors = original(base, family)
    found = checkpoint_of(tensors)
    assert found is not None and found.family == family
    doubled = {name: tensor * 2 for name, tensor in tensors.items()}
    code, out = imported(tmp_path, base, doubled)
    assert code == 0, failure(out)
    assert load_base(out / "model", torch.float32).family == family
    manifest = json.loads((out / "manifest.json").read_text())
    sources = manifest["facts"]["imported"]["parts"] if "facts" in manifest else manifest["imported"]["parts"]
    assert {name for name, source in sources.items() if source == "file"} == set(found.parts)
    for name in found.parts:
        before, after = part(base, name), part(out / "model", name)
        names = {key.removeprefix("text_model."): key for key in after}
        for key, tensor in before.items():
            other = after[names[key.removeprefix("text_model.")]]
            assert torch.equal(other, tensor * 2), (name, key)


def test_what_the_file_lacks_comes_from_the_base(tiny_base: TinyBase, tmp_path: Path) -> None:
    base = tiny_base("sd1")
    tensors = {name: tensor + 1 for name, tensor in original(base, "sd1").items() if name.startswith("model.")}
    code, out = imported(tmp_path, base, tensors)
    assert code == 0, failure(out)
    assert all(torch.equal(part(out / "model", "vae")[name], tensor) for name, tensor in part(base, "vae").items())
    assert torch.equal(part(out / "model", "unet")["conv_in.weight"], part(base, "unet")["conv_in.weight"] + 1)


def test_a_file_of_another_family_is_refused(tiny_base: TinyBase, tmp_path: Path) -> None:
    code, out = imported(tmp_path, tiny_base("sd1"), original(tiny_base("sdxl"), "sdxl"))
    assert code == 1
    assert failure(out).startswith("the file is a Stable Diffusion XL checkpoint, but the base is of family sd1")


def test_a_file_that_lacks_weights_is_refused_with_their_part(tiny_base: TinyBase, tmp_path: Path) -> None:
    tensors = original(tiny_base("sd1"), "sd1")
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    code, out = imported(tmp_path, tiny_base("sd1"), tensors)
    assert code == 1 and "unet lacks 1 weights" in failure(out)


def test_a_file_of_another_kind_is_refused(tiny_base: TinyBase, tmp_path: Path) -> None:
    code, out = imported(tmp_path, tiny_base("sd1"), {"something": torch.zeros(2)})
    assert code == 1 and "is no checkpoint of SD 1.x, 2.x, XL, SD3 or Flux" in failure(out)


def test_names_of_flux_are_told_apart_with_what_is_missing() -> None:
    network = ("img_in.weight", "double_blocks.0.img_attn.qkv.weight")
    bare = checkpoint_of(network)
    assert bare is not None and (bare.family, bare.parts) == ("flux", {"transformer": ""})
    assert bare.missing == ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    whole = checkpoint_of(
        [f"model.diffusion_model.{name}" for name in network]
        + ["vae.encoder.conv_in.weight", "text_encoders.clip_l.transformer.x", "text_encoders.t5xxl.transformer.y"]
    )
    assert whole is not None and whole.missing == ("tokenizer", "tokenizer_2", "scheduler")
