"""The commands for templates, jobs, adaptors and sampling against a live API; a test plays the worker."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient
from typer.testing import CliRunner

from api.jobs.models import Metric
from api.storage import LINK_PATH, storage
from cli.commands.adaptors import condition_parse
from cli.errors import CliError
from cli.main import app
from tests.api.host import Agent, Host, step_event
from tests.api.live import serving
from tests.api.world import World

pytestmark = pytest.mark.django_db(transaction=True)


class Anneal:
    """`anneal` as the user of the project."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __call__(self, *command: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, command, env=self.env)
        assert done.exit_code == code, f"anneal {' '.join(command)} gave {done.exit_code}: {done.output}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *command: str) -> Any:
        return json.loads(self(*command, "--json"))


@pytest.fixture
def anneal(user: APIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Anneal]:
    token = user._credentials["HTTP_AUTHORIZATION"].removeprefix("Bearer ")  # type: ignore[attr-defined]  # not in the stubs
    with serving() as url:
        monkeypatch.setattr(storage(), "link_base", url + LINK_PATH)
        yield Anneal({"ANNEAL_URL": url, "ANNEAL_TOKEN": token, "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "200"})


@pytest.fixture
def fast(anneal: Anneal, world: World) -> str:  # noqa: ARG001 what the template names
    named = ("--method", "image_lora", "--dataset", "shapes", "--model", "base", "--accelerators", "0")
    anneal("template", "create", "fast", *named, "--set", "adaptor_name=shapes", "--set", "lora_r=8")
    return "fast"


@pytest.fixture
def trained(anneal: Anneal, fast: str, host: Host) -> str:
    """A job that made shapes@1."""
    job: str = anneal.json("job", "submit", "--template", fast)["id"]
    agent = host.claim()
    agent.start()
    agent.events(step_event(2, 1, loss=0.7), step_event(3, 2, loss=0.6))
    sample_publish(agent)
    finished = agent.finish_body("succeeded")
    finished["manifest"] |= {"metrics": {"loss": 0.6}, "params": {"lora_r": 8}}
    assert agent.post("finish", finished).status_code == 200
    return job


def sample_publish(agent: Agent) -> None:
    entry = agent.store("samples/0.png", b"image")
    body = {"kind": "sample", "step": 2, "path": "samples/0.png", "files": [entry], "details": {}}
    assert agent.post("artifacts", body).status_code == 200


def test_a_template_is_checked_cloned_changed_and_restored(anneal: Anneal, fast: str, tmp_path: Path) -> None:
    assert "good" in anneal("template", "validate", fast)
    file = tmp_path / "fast.yaml"
    anneal("template", "export", fast, "--output", str(file))
    assert file.read_text().startswith("# Anneal template fast@1\n")
    file.write_text(file.read_text().replace("lora_r: 8", "lora_r: 16"))
    assert "fast@2" in anneal("template", "import", str(file))
    assert [row["version"] for row in anneal.json("template", "history", fast)] == [2, 1]
    assert anneal.json("template", "show", "fast@1")["params"]["lora_r"] == 8
    assert anneal.json("template", "restore", fast, "1")["version"] == 3
    assert anneal.json("template", "clone", "fast@2", "copy")["params"]["lora_r"] == 16
    assert [row["name"] for row in anneal.json("template", "list", "--search", "cop")] == ["copy"]
    file.write_text("name: bad\nmethod: image_lora\nparams: {adaptor_name: x, lora_r: 1}\n")
    assert "params.lora_r" in anneal("template", "import", str(file), code=1)


def test_validate_ends_with_1_where_an_input_went(anneal: Anneal, fast: str, world: World) -> None:
    world.project.datasets.update(name="elsewhere")
    assert "dataset" in anneal("template", "validate", fast, code=1)


def test_jobs_are_repeated_moved_labelled_found_and_deleted(anneal: Anneal, trained: str) -> None:
    again = anneal.json("job", "rerun", trained[:8], "--name", "again", "--set", "lora_r=16", "--pool", "nobody")
    assert (again["parent"], again["params"]["lora_r"], again["pool"]) == (trained, 16, "nobody")
    assert anneal.json("job", "priority", again["id"], "7")["priority"] == 7
    assert "succeeded" in anneal("job", "priority", trained, "7", code=1)
    labelled = anneal.json("job", "note", again["id"], "too dark", "--label", "b", "--label", "a")
    assert (labelled["notes"], labelled["labels"]) == ("too dark", ["a", "b"])
    for requested, result in (
        (("--label", "a"), [again["id"]]),
        (("--parent", trained), [again["id"]]),
        (("--template", "fast@1"), [again["id"], trained]),
        (("--adaptor", "shapes@1"), [trained]),
        (("--state", "queued,running", "--dataset", "shapes"), [again["id"]]),
        (("--since", "2999-01-01T00:00:00Z"), []),
    ):
        assert [job["id"] for job in anneal.json("job", "list", *requested)] == result, requested
    anneal("job", "cancel", again["id"])
    assert anneal.json("job", "delete", again["id"]) == {"deleted": again["id"]}
    assert "shapes@1" in anneal("job", "delete", trained, code=1)


def test_curves_samples_and_artifacts_come_out(anneal: Anneal, trained: str, tmp_path: Path) -> None:
    assert anneal.json("job", "metrics", trained, "--name", "loss") == {"loss": [[1, 0.7], [2, 0.6]]}
    rows = list(csv.reader(io.StringIO(anneal("job", "metrics", trained, "--csv"))))
    assert rows[0] == ["name", "step", "value"]
    assert ["loss", "2", "0.6"] in rows
    Metric.objects.bulk_create(
        Metric(attempt_id=Metric.objects.earliest("pk").attempt_id, name="lr", step=step, value=step)
        for step in range(100)
    )
    assert len(anneal.json("job", "metrics", trained, "--points", "10")["lr"]) == 10
    assert "0.6" in anneal("job", "metrics", trained)
    anneal("job", "artifacts", trained, "--kind", "sample", "--output", str(tmp_path / "all"))
    assert (tmp_path / "all/samples/0.png").read_bytes() == b"image"
    anneal("job", "samples", trained, "--step", "2", "--output", str(tmp_path / "images"))
    assert (tmp_path / "images/0.png").read_bytes() == b"image"
    assert anneal.json("job", "samples", trained, "--step", "1") == []


def test_adaptors_are_found_marked_traced_and_deleted(anneal: Anneal, trained: str, tmp_path: Path) -> None:
    for requested, count in (
        (("--where", "metrics.loss<0.7", "--where", "params.lora_r=8", "--sort", "-metrics.loss"), 1),
        (("--where", "metrics.loss>=0.7"), 0),
        (("--base-model", "base@1", "--name", "shapes"), 1),
        (("--tag", "good"), 0),
    ):
        assert len(anneal.json("adaptor", "list", *requested)) == count, requested
    assert anneal.json("adaptor", "tag", "shapes", "good", "final")["tags"] == ["final", "good"]
    assert anneal.json("adaptor", "note", "shapes", "the one")["notes"] == "the one"
    assert "0.6" in anneal("adaptor", "list", "--tag", "good")
    body = anneal("adaptor", "lineage", "shapes")
    assert all(word in body for word in ("fast@1", "dataset shapes@1", "model base@1", trained[:8]))
    anneal("adaptor", "pull", "shapes", "--zip", "--output", str(tmp_path / "shapes.zip"))
    names = zipfile.ZipFile(tmp_path / "shapes.zip").namelist()
    assert names == ["shapes-v1/pytorch_lora_weights.safetensors", "shapes-v1/manifest.json"]
    anneal("adaptor", "pull", "shapes", "--output", str(tmp_path / "shapes"))
    assert (tmp_path / "shapes/pytorch_lora_weights.safetensors").read_bytes() == b"weights"
    assert "shapes@1" in anneal("adaptor", "delete", "shapes", code=2)
    anneal("adaptor", "delete", "shapes@1")
    assert anneal.json("adaptor", "list") == []


def test_samplings_are_listed(anneal: Anneal, trained: str) -> None:  # noqa: ARG001 the adaptor that is sampled
    named = ("--method", "sample_image", "--model", "base", "--adaptor", "shapes", "--set", "prompt=a red cat")
    job = anneal.json("job", "submit", *named)["id"]
    assert [row["job"] for row in anneal.json("samplings", "--search", "red", "--adaptor", "shapes@1")] == [job]
    assert anneal.json("samplings", "--search", "dog") == []
    assert "a red cat" in anneal("samplings")


def test_conditions_are_read_as_people_write_them() -> None:
    for text, parameter in (
        ("metrics.loss<0.1", ("metrics.loss__lt", "0.1")),
        ("metrics.loss <= 0.1", ("metrics.loss__lte", "0.1")),
        ("params.x!=a=b", ("params.x__ne", "a=b")),
        ("params.text~cat", ("params.text__contains", "cat")),
        ("params.lora_r=8", ("params.lora_r", "8")),
    ):
        assert condition_parse(text) == parameter
    with pytest.raises(CliError, match="--where"):
        condition_parse("metrics.loss")
