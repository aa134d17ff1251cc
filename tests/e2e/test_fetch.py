"""A private model and a dataset from a Hub, through API, worker and trainer, with a secret that is found nowhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli.config import Login
from cli.main import app
from tests.e2e.conftest import STOP_SECONDS, Embedded, started
from tests.trainers.core.hub.hub_server import COMMIT, Hub, hub_server
from tests.trainers.image.models.original_layout import original

pytestmark = pytest.mark.slow
TOKEN = "hub-token-of-no-known-shape"


@pytest.fixture(scope="module")
def hub(tiny_sd: Path) -> Iterator[Hub]:
    files = {path.relative_to(tiny_sd).as_posix(): path.read_bytes() for path in tiny_sd.rglob("*") if path.is_file()}
    with hub_server(files={**files, "unet/old.bin": b"pickle"}, token=TOKEN) as hub:
        yield hub


@pytest.fixture(scope="module")
def reached(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A platform whose operator lists that Hub."""
    root = tmp_path_factory.mktemp("up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNEAL_HUB_ENDPOINTS", hub.url)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        up, ready = started(root)
    yield Embedded(Login(ready["url"], ready["token"]), ready["password"], root, up.pid, ready)
    up.terminate()
    assert up.wait(STOP_SECONDS) == 0


def test_a_private_model_and_a_dataset_are_fetched_and_trained_on(reached: Embedded, hub: Hub, images: Path) -> None:
    refused = reached.run("model", "fetch", "tiny", "me/tiny", "--endpoint", hub.url)
    assert refused.exit_code == 1 and "without a token" in refused.output.replace("\n", " ")

    saved = CliRunner().invoke(app, ["secret", "set", "hub", "--kind", "hub"], input=TOKEN + "\n", env=reached.env)
    assert saved.exit_code == 0, saved.output
    version = reached.json("model", "fetch", "tiny", "me/tiny", "--endpoint", hub.url, "--secret", "hub")
    assert (version["state"], version["family"]) == ("ready", "sd1")
    stored = {file["path"]: file["sha256"] for file in version["files"]}
    assert "unet/old.bin" not in stored and "unet/diffusion_pytorch_model.safetensors" in stored

    hub.files = {path.name: path.read_bytes() for path in images.iterdir()}
    dataset = reached.json("dataset", "fetch", "plain", "me/tiny", "--endpoint", hub.url, "--secret", "hub")
    assert (dataset["state"], dataset["version"]) == ("ready", 1)

    train = ("--method=image_lora", "--dataset=plain", "--model=tiny", "--set=adaptor_name=plain")
    small = ("--set=resolution=64", "--set=max_train_steps=2")
    job = reached.json("job", "submit", *train, *small)["id"]
    reached.anneal("job", "watch", job)
    assert not found_in(reached.root, TOKEN), "neither database nor log nor any file has the token"
    assert found_in(reached.root, COMMIT), "but all say which commit it was"


def test_a_single_file_takes_what_it_lacks_from_a_hub(
    reached: Embedded, hub: Hub, tiny_sd: Path, tmp_path: Path
) -> None:
    hub.files = {
        path.relative_to(tiny_sd).as_posix(): path.read_bytes() for path in tiny_sd.rglob("*") if path.is_file()
    }
    hub.token = ""
    file = tmp_path / "style.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in original(tiny_sd, "sd1").items()}, file)
    add = ("model", "add", "style", str(file), "--components-from-hub", "--repo", "me/tiny", "--endpoint")
    refused = reached.run(*add, "https://hub.example")
    assert refused.exit_code == 1 and "is not among the Hubs of this installation" in " ".join(refused.output.split())
    before = len(hub.requests)
    version = reached.json(*add, hub.url)
    assert (version["state"], version["family"]) == ("ready", "sd1")
    assert version["details"]["source"]["method"] == "import_model"
    assert (version["details"]["source"]["repo"], version["details"]["source"]["commit"]) == ("me/tiny", COMMIT)
    fetched = {path for _, path, _ in hub.requests[before:] if "/resolve/" in path}
    assert fetched and all("/tokenizer/" in path for path in fetched)


def found_in(root: Path, text: str) -> list[str]:
    places = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return [str(path) for path in places if path.is_file() and text.encode() in path.read_bytes()]
