"""A checkpoint in one file becomes a base model that is trained and sampled, on the whole platform."""

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.e2e.conftest import Embedded
from tests.trainers.image.models.original_layout import original

pytestmark = pytest.mark.slow
SMALL = ("--set=resolution=64", "--set=max_train_steps=2", "--set=adaptor_name=of_one_file")


def test_a_single_file_is_imported_trained_on_and_sampled(platform: Embedded, tiny_sd: Path, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in original(tiny_sd, "sd1").items()}, file)
    alone = platform.run("model", "add", "style", str(file))
    assert alone.exit_code == 2 and "which lacks tokenizer" in " ".join(alone.output.split())

    version = platform.json("model", "add", "style", str(file), "--components-from", "tiny")
    assert (version["state"], version["family"], version["version"]) == ("ready", "sd1", 1)
    paths = {entry["path"] for entry in version["files"]}
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"} <= paths

    job = platform.json("job", "submit", "--method=image_lora", "--dataset=plain", "--model=style", *SMALL)["id"]
    platform.anneal("job", "watch", job)
    drawing = ("--prompt", "all red", "--steps=2", "--width=64", "--height=64", "--adaptor=of_one_file")
    platform.anneal("sample", *drawing, "--model", "style", "--output", str(tmp_path / "drawn.png"))
    assert Image.open(tmp_path / "drawn.png").size == (64, 64)
