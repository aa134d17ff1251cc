"""The real wandb library, offline: what a job tells it lies in its own file format."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.trainers.job import Job

BLOCK = 32768


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def records(path: Path) -> Iterator[Any]:
    """A log of LevelDB's format behind 7 bytes: chunks with (checksum, length, kind), whole or first to last."""
    content, at, body = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        chunk, at = content[at + 7 : at + 7 + length], at + 7 + length
        body = chunk if kind in (1, 2) else body + chunk
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(body)
            yield record


def history(path: Path) -> dict[str, dict[int, Any]]:
    """By metric, then by step."""
    result: dict[str, dict[int, Any]] = {}
    for row in (record.history for record in records(path) if record.WhichOneof("record_type") == "history"):
        values = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for name, value in values.items():
            result.setdefault(name, {})[row.step.num] = value
    return result


def test_a_job_without_a_key_keeps_its_run_in_files(make_job: Callable[..., Job]) -> None:
    silent, reported = make_job("silent"), make_job("told")
    assert silent.spec(max_train_steps=1).run() == 0
    assert not (silent.out / "wandb").exists()
    evaluation = {"eval_prompt": "a cat", "eval_num_inference_steps": 1, "validation_split": 0.25}
    assert reported.spec(max_train_steps=2, log_to_wandb=True, wandb_project="dogs", **evaluation).run() == 0
    (path,) = (reported.out / "wandb").rglob("*.wandb")
    assert {r.run.project for r in records(path) if r.WhichOneof("record_type") == "run"} == {"dogs"}
    metrics = history(path)
    assert metrics["train/loss"] == pytest.approx(reported.losses())
    assert set(metrics["validation/loss"]) == {0, 2}
    assert len(list((reported.out / "wandb").rglob("*.png"))) == 2
    assert not any(result.is_symlink() for result in (reported.out / "wandb").rglob("*"))
    listed = [entry["path"] for entry in reported.manifest["files"] if entry["path"].startswith("wandb/")]
    assert any(name.endswith(".wandb") for name in listed)
    assert not any(name.endswith(".log") for name in listed)


def test_the_project_comes_from_the_parameters_else_from_the_worker(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "cats")
    assert job.spec(max_train_steps=1, log_to_wandb=True).run() == 0
    (path,) = (job.out / "wandb").rglob("*.wandb")
    assert {r.run.project for r in records(path) if r.WhichOneof("record_type") == "run"} == {"cats"}
