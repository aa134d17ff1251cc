"""`anneal model add` of one .safetensors file, up to where a server would be needed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

SD1 = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.text_model.x")


def file_write(path: Path, *names: str) -> Path:
    entries = {name: {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for name in names}
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def add(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["model", "add", "new", *map(str, arguments)])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def test_a_file_without_components_is_refused_naming_each_missing_part(tmp_path: Path) -> None:
    result = add(file_write(tmp_path / "a.safetensors", *SD1))
    assert result.exit_code == 2
    assert "is a Stable Diffusion 1.x checkpoint in one file, which lacks vae, tokenizer, scheduler" in words(result)
    assert "--components-from" in words(result) and "anneal model fetch" in words(result)


@pytest.mark.parametrize("names", [("unet.to_q.lora_A.weight",), ()])
def test_a_file_of_another_kind_is_refused_before_it_is_uploaded(tmp_path: Path, names: tuple[str, ...]) -> None:
    result = add(file_write(tmp_path / "a.safetensors", *names), "--components-from", "base")
    assert result.exit_code == 2 and "expected a checkpoint of SD 1.x, 2.x, XL, SD3 or Flux" in words(result)


def test_components_are_for_one_file_only(tmp_path: Path) -> None:
    result = add(tmp_path, "--components-from", "base")
    assert result.exit_code == 2 and "--components-from is for a .safetensors file" in words(result)
