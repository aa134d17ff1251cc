"""What jobs need around them in tests: inputs, a clock, settings."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from api.accounts.models import Project
from api.audit import clock
from api.catalog.models import Dataset, DatasetVersion, PretrainedModel, PretrainedModelVersion
from api.storage import storage
from trainers.contract.spec import folder_digest

INPUT_FILES = {"datasets/1/a.png": b"a", "datasets/1/metadata.jsonl": b"{}", "models/1/model_index.json": b"{}"}
"""What a world's inputs hold, by key; only rows name them, until a test puts them into the storage."""
CLOCK_READERS = (
    "attempt_lifecycle",
    "budgets",
    "control",
    "events",
    "files",
    "finish",
    "inputs",
    "reconcile",
    "submit",
    "workers",
)
"""Modules of api.jobs.services that read the clock by name."""


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@dataclass
class World:
    project: Project
    request: dict[str, Any]
    """Body of `POST jobs` for an image_lora job."""


def world_make(project: Project) -> World:
    images = [file_entry("a.png", b"a"), file_entry("metadata.jsonl", b"{}")]
    dataset = Dataset.objects.create(project=project, name="shapes")
    version_make(DatasetVersion, dataset, "datasets/1", images)
    model = PretrainedModel.objects.create(project=project, name="base")
    version_make(PretrainedModelVersion, model, "models/1", [file_entry("model_index.json", b"{}")], family="sd1")
    params = {"adaptor_name": "shapes", "max_train_steps": 10}
    request = {"name": "first", "method": "image_lora", "params": params, "dataset": "shapes", "model": "base"}
    return World(project, {**request, "resources": {"accelerators": 0}})


def version_make(rows: Any, record: Any, key: str, files: list[dict[str, Any]], **more: Any) -> None:
    size = sum(file["size"] for file in files)
    body = {"digest": folder_digest(files), "files": files, "num_files": len(files), "size_bytes": size}
    rows.objects.create(record=record, version=1, key=key, **body, **more)


def inputs_store(folder: Path) -> None:
    """Puts the files of the world's inputs into the storage, by way of `folder`."""
    for key, content in INPUT_FILES.items():
        (folder / "input").write_bytes(content)
        storage().put_file(key, folder / "input")


class Clock:
    """Replaces `now` wherever it was imported by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = clock.now
        self._ahead = timedelta()
        for module in (*(f"services.{name}" for name in CLOCK_READERS), "selectors", "placement"):
            monkeypatch.setattr(f"api.jobs.{module}.now", self.now)

    def now(self) -> datetime:
        return self._real() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


class Environ:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, **changed: Any) -> None:
        self._settings.ANNEAL = self._settings.ANNEAL.model_copy(update=changed)
