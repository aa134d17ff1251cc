"""Sampling jobs of one base model, one after another, on the whole platform."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.http import Client, Record
from tests.e2e.conftest import Embedded


@pytest.fixture
def drawn(platform: Embedded, client: Client, tmp_path: Path) -> list[tuple[Record, Path]]:
    """Three samplings: what each trainer told at its start, and the image."""
    result = []
    for number, steps in enumerate((2, 3, 2)):
        image = tmp_path / f"{number}.png"
        options = ("--set", f"num_inference_steps={steps}", "--model", "tiny", "--output", str(image))
        job = platform.json("sample", "--prompt", "a dog", *options)["job"]
        reported = [event["data"] for event in client.pages(f"jobs/{job}/events") if event["kind"] == "started"]
        result.append((reported[0]["details"], image))
    return result


@pytest.mark.slow
def test_the_next_sampling_is_drawn_by_the_process_that_has_the_base_model(drawn: list[tuple[Record, Path]]) -> None:
    assert len({reported["process"] for reported, _ in drawn}) == 1
    assert [reported["was_in_memory"] for reported, _ in drawn][1:] == [True, True]
    first, second, third = (np.asarray(Image.open(path)) for _, path in drawn)
    assert np.array_equal(first, third) and not np.array_equal(first, second)


def test_an_image_is_painted_inside_a_mask(platform: Embedded, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    (tmp_path / "inputs").mkdir()
    mask.save(tmp_path / "inputs" / "mask.png")
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "inputs" / "red.png")
    platform.anneal("dataset", "add", "start", str(tmp_path / "inputs"))
    expected = ("input_image=red.png", "mask_image=mask.png", "num_inference_steps=2", "prompt=a dog")
    requests = [word for setting in expected for word in ("--set", setting)]
    submit = ("job", "submit", "--method", "sample_image", "--model", "tiny", "--dataset", "start")
    job = platform.json(*submit, *requests)["id"]
    platform.anneal("job", "watch", job)
    platform.anneal("job", "samples", job, "--output", str(tmp_path / "out"))
    (image,) = (np.asarray(Image.open(path)) for path in (tmp_path / "out").rglob("*.png"))
    assert (image[:, :32] == (200, 30, 30)).all() and not (image[:, 32:] == (200, 30, 30)).all()
