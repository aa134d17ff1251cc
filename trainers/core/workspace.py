"""What a method gets: its spec, its folders, and a way to speak."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainers.contract.events import EventWriter
from trainers.contract.spec import JobSpec
from trainers.core.model_cache import Kept

Outcome = Literal["succeeded", "stopped"]


@dataclass(frozen=True)
class Workspace:
    """`inputs`, `out` and `cache` of one attempt; `inputs` holds what
    `trainers.contract.spec.Inputs` lists, and `control`.

    A method is a function `Workspace -> Outcome`; it writes below `out` and never deletes what it did not write.
    """

    spec: JobSpec
    inputs: Path
    out: Path
    cache: Path
    events: EventWriter | None
    """None on every rank but 0."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the method adds to the manifest: seconds spent, cache digest, ..."""
    kept: Kept = field(default_factory=Kept)
    """What the process still has in memory from the job before."""

    @property
    def dataset(self) -> Path:
        return self.inputs / "dataset"

    @property
    def model(self) -> Path:
        return self.inputs / "model"

    def adaptor(self, index: int) -> Path:
        return self.inputs / "adaptor" / str(index)

    @property
    def checkpoint(self) -> Path | None:
        path = self.inputs / "checkpoint"
        return path if (path / "manifest.json").exists() else None
