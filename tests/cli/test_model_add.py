"""`anneal model add` of one .safetensors file, up to where a server would be needed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

Tensors = dict[str, tuple[str, list[int]]]
NETWORK = "model.diffusion_model."
ATTENTION = f"{NETWORK}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "F8_E4M3": 1}


def sd(cross_attention_dim: int, dtype: str = "F16", channels: int = 4) -> Tensors:
    """A small UNet of Stable Diffusion: two resolutions, the first with attention."""
    shapes = {
        "input_blocks.0.0.weight": [32, channels, 3, 3],
        "input_blocks.1.0.out_layers.3.weight": [32, 32, 3, 3],
        "input_blocks.1.1.proj_in.weight": [32, 32],
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [32, cross_attention_dim],
        "input_blocks.2.0.op.weight": [32, 32, 3, 3],
        "input_blocks.3.0.out_layers.3.weight": [64, 32, 3, 3],
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": [64, cross_attention_dim],
        "out.2.weight": [4, 32, 3, 3],
    }
    return {f"{NETWORK}{name}": (dtype, shape) for name, shape in shapes.items()}


def file_write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None, cut: int = 0) -> Path:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end - cut))
    return path


def add(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["model", "add", "new", *map(str, arguments)])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def refused(*arguments: str | Path) -> str:
    result = add(*arguments)
    assert result.exit_code == 2, result.output
    return words(result)


def test_a_file_without_components_is_refused_naming_each_missing_part(tmp_path: Path) -> None:
    message = refused(file_write(tmp_path / "a.safetensors", sd(768)))
    assert "is a Stable Diffusion 1.x checkpoint in one file, which lacks vae, text_encoder, tokenizer" in message
    assert "base model of family sd1 with --components-from, or take them from" in message
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5 with --components-from-hub" in message


def test_a_file_of_sd2_is_asked_what_it_predicts_unless_it_says_so(tmp_path: Path) -> None:
    file = file_write(tmp_path / "a.safetensors", sd(1024))
    message = refused(file, "--components-from", "base")
    assert "a.safetensors does not say what it was trained to predict" in message
    assert "--prediction-type v_prediction (models of 768 pixels) or epsilon (of 512)" in message
    stated = file_write(tmp_path / "b.safetensors", sd(1024), {"modelspec.prediction_type": "v"})
    assert "lacks vae" in refused(stated), "it goes on to the next question"
    assert "lacks vae" in refused(file, "--prediction-type", "epsilon")


def test_a_flow_model_has_no_prediction_type(tmp_path: Path) -> None:
    names = {
        "double_blocks.0.img_attn.norm.query_norm.scale": [32],
        "txt_in.weight": [64, 1],
        "img_in.weight": [64, 64],
    }
    names |= {"double_blocks.0.img_attn.qkv.weight": [192, 64], "vector_in.in_layer.weight": [64, 1]}
    file = file_write(tmp_path / "a.safetensors", {name: ("F16", shape) for name, shape in names.items()})
    assert "--prediction-type does nothing for Flux.1" in refused(file, "--prediction-type", "epsilon")


LORA: Tensors = {"lora_unet_x.lora_down.weight": ("F16", [4, 8])}
FLUX2: Tensors = {"double_blocks.0.img_attn.qkv.weight": ("F16", [3, 1]), "img_in.weight": ("F16", [1, 128])}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (LORA, "a.safetensors is a LoRA; expected a whole checkpoint of SD 1.x, 2.x, XL, SD3 or Flux.1 in one file"),
        (LORA, "anneal adaptor import FILE --model BASE"),
        ({}, "expected a checkpoint of SD 1.x, 2.x, XL, SD3 or Flux.1 in one file, by its tensors' names; it holds no"),
        ({"x": ("F32", [1])}, "its first tensor is 'x'"),
        ({"down_blocks.0.x": ("F32", [1])}, "is one part of a model in diffusers' layout"),
        (FLUX2, "expected Flux.1, got a relative of it without vector_in.in_layer.weight, as Flux.2 and Chroma are"),
        (FLUX2 | {"vector_in.in_layer.weight": ("F16", [1, 1])}, "takes 64 channels, got img_in.weight with 128"),
        (sd(768, channels=9), "takes 4 channels, got model.diffusion_model.input_blocks.0.0.weight with 9"),
        (sd(768) | {"edm_mean": ("F32", [4])}, "got one with edm_mean (EDM, as Playground 2.5)"),
        (sd(768) | {"conditioner.embedders.0.model.x": ("F32", [4])}, "expected an SDXL base, got the SDXL refiner"),
        (sd(768, "F8_E4M3"), "input_blocks.0.0.weight is F8_E4M3; expected weights in F32, F16 or BF16"),
        (sd(768, "F8_E4M3"), "add the checkpoint in 16 bits"),
        ({k: v for k, v in sd(768).items() if "out.2" not in k}, "unet is not that of Stable Diffusion 1.x: it lacks"),
        (sd(768) | {f"{NETWORK}input_blocks.0.0.weight": ("F16", [4])}, "with no such side"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_before_it_is_uploaded(
    tmp_path: Path, tensors: Tensors, expected: str
) -> None:
    message = refused(file_write(tmp_path / "a.safetensors", tensors), "--components-from", "base")
    assert expected in message, message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.ckpt",
            b"PK\x03\x04" + bytes(99),
            "a.ckpt is a zip archive (as torch.save writes pickled weights); expected",
        ),
        ("a.safetensors", b"\x80\x02" + bytes(99), "a.safetensors is a pickle by another name; expected safetensors"),
        ("a.gguf", b"GGUF" + b"\xff" * 99, "a.gguf is a GGUF file; expected safetensors"),
        ("a.safetensors", b"", "a.safetensors has zero bytes"),
        ("a.safetensors", b"\xff\0\0\0\0\0\0\0{}", "the header says it has 255 bytes, the whole file has 10"),
        ("a.safetensors", b'\x0e\0\0\0\0\0\0\0{"a":1,"a":2}\n', "duplicate key 'a'"),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0[]", "expected a JSON object, got list"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert expected in refused(path, "--components-from", "base")


def test_a_truncated_file_is_refused_with_both_lengths(tmp_path: Path) -> None:
    message = refused(file_write(tmp_path / "a.safetensors", {"x": ("F32", [4])}, cut=3), "--components-from", "base")
    assert "a.safetensors: its tensors need 16 bytes, the file holds 13" in message
    assert "copy or download it again" in message


@pytest.mark.parametrize(
    "option",
    [("--components-from", "base"), ("--prediction-type", "epsilon"), ("--components-from-hub",), ("--repo", "a/b")],
)
def test_components_are_for_one_file_only(tmp_path: Path, option: tuple[str, ...]) -> None:
    assert f"{option[0]} is for a .safetensors file" in refused(tmp_path, *option)


def test_components_come_from_one_place(tmp_path: Path) -> None:
    file = file_write(tmp_path / "a.safetensors", sd(768))
    assert "--repo needs --components-from-hub" in refused(file, "--components-from", "base", "--repo", "a/b")
    assert "leave one out" in refused(file, "--components-from", "base", "--components-from-hub")
