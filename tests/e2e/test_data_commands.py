"""Datasets out of datasets and samples, previews, bundled templates: commands on a real platform."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.config import Login
from tests.e2e.conftest import COLOURS, STOP_SECONDS, Embedded, started
from tests.trainers.core.hub.hub_server import Hub, hub_server

FETCHED = {"dataset": "datasets-examples/doc-image-6", "model": "stable-diffusion-v1-5/stable-diffusion-v1-5"}


def test_captions_are_edited_without_the_images(platform: Embedded, images: Path, tmp_path: Path) -> None:
    platform.anneal("dataset", "add", "edited", str(images))
    (tmp_path / "new.csv").write_text("file_name,text\nred.png,quite red\n")
    created = platform.json(
        "dataset", "captions", "edited", "--set", "blue.png=deep = blue", "--from", f"{tmp_path}/new.csv"
    )
    assert (created["version"], created["details"]["source"]) == (2, {"captions_of": "edited@1"})
    shown = {item["path"]: item["caption"] for item in platform.json("dataset", "preview", "edited")}
    assert (shown["red.png"], shown["blue.png"]) == ("quite red", "deep = blue")
    assert platform.run("dataset", "captions", "edited", "--set", "none.png=x").exit_code == 1


@pytest.mark.slow
def test_a_preview_shows_what_the_trainer_will_see(platform: Embedded) -> None:
    reported = platform.json("template", "preview", "quick", "--num-rows", "2", "--set", "random_flip=true")
    assert (reported["refused"], reported["images"], len(reported["samples"])) == ("", len(COLOURS), 2)
    assert all(sample["text"].startswith("zqx, all ") for sample in reported["samples"])
    report = platform.json("job", "samples", reported["job"])
    assert {sample["path"] for sample in reported["samples"]} < {sample["path"] for sample in report}
    assert "zqx, all" in platform.anneal("dataset", "inspect", "plain", "--template", "quick", "-n", "1")


@pytest.mark.slow
def test_images_that_were_sampled_become_a_dataset(platform: Embedded, images: Path, tmp_path: Path) -> None:
    few = ("--steps", "2", "--model", "tiny", "--output", f"{tmp_path}/a.png")
    start = ("--image", str(images / "red.png"), "--strength", "0.5")
    first = platform.json("sample", "--prompt", "all red", *few, *start, "--num-images", "2")
    again = platform.json("sample", "--prompt", "all blue", *few, *start)
    assert [Path(file).name for file in first["files"]] == ["a-0.png", "a-1.png"]
    assert platform.json("dataset", "show", "sampling-inputs")["versions"] == [1], "the same image is sent once"
    jobs = ("--job", first["job"], "--job", again["job"])
    created = platform.json("dataset", "from-samples", "drawn", *jobs)
    captions = sorted(item["caption"] for item in platform.json("dataset", "preview", "drawn"))
    assert (created["version"], captions) == (1, ["all blue", "all red", "all red"])
    pick = ("--pick", f"{Path(sample_path(platform, again['job'])).name}=night", "--extend")
    assert platform.json("dataset", "from-samples", "drawn", "--job", again["job"], *pick)["version"] == 2
    assert "night" in [item["caption"] for item in platform.json("dataset", "preview", "drawn")]


def sample_path(platform: Embedded, job: str) -> str:
    (sample,) = platform.json("job", "samples", job)
    return str(sample["path"])


@pytest.fixture(scope="module")
def hub(tiny_sd: Path, images: Path) -> Iterator[Hub]:
    """The two repositories of a bundled template, as the real ones are laid out, and small."""
    model = {path.relative_to(tiny_sd).as_posix(): path.read_bytes() for path in tiny_sd.rglob("*") if path.is_file()}
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    table = "".join(f"images/{row['file_name']},{row['text']}\n" for row in rows)
    dataset = {"train/metadata.csv": f"file_name,text\n{table}".encode()}
    dataset |= {f"train/images/{row['file_name']}": (images / row["file_name"]).read_bytes() for row in rows}
    model |= {"v1-5-pruned.safetensors": b"the whole again", "unet/diffusion_pytorch_model.fp16.safetensors": b"half"}
    with hub_server(repos={FETCHED["dataset"]: dataset, FETCHED["model"]: model}) as hub:
        yield hub


@pytest.mark.slow
def test_a_bundled_template_brings_its_dataset_and_base(hub: Hub, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNEAL_HUB_ENDPOINTS", hub.url)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        up, ready = started(tmp_path)
    platform = Embedded(Login(ready["url"], ready["token"]), ready["password"], tmp_path, up.pid, ready)
    try:
        assert "doc-image-6-sd15" in [row["name"] for row in platform.json("template", "bundled")]
        created = platform.json("template", "install", "doc-image-6-sd15", "--endpoint", hub.url)
        assert (created["dataset"], created["model"]) == ("doc-image-6", "stable-diffusion-1.5")
        assert platform.json("template", "validate", "doc-image-6-sd15")["valid"]
        model = platform.json("model", "show", "stable-diffusion-1.5")
        assert model["details"]["source"]["repo"] == FETCHED["model"]
        assert not [file["path"] for file in model["files"] if "pruned" in file["path"] or "fp16" in file["path"]]
        observed = platform.json("template", "preview", "doc-image-6-sd15", "--set", "resolution=64", "-n", "1")
        assert (observed["refused"], observed["images"]) == ("", len(COLOURS))
        before = len(hub.requests)
        assert platform.json("template", "install", "doc-image-6-sd15", "--endpoint", hub.url)["version"] == 1
        assert len(hub.requests) == before, "what is there is not fetched again"
    finally:
        up.terminate()
        assert up.wait(STOP_SECONDS) == 0
