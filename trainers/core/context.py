"""The context of a job: its spec and folders, its ranks, and a way to report. Built once and handed to the method."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal

from typing_extensions import TypeVar

from trainers.contract.events import EventWriter
from trainers.contract.params.base import Params
from trainers.contract.spec import JobSpec
from trainers.core.control import Control
from trainers.core.distributed import Processes, start_processes
from trainers.core.reporting import Reporter

P = TypeVar("P", bound=Params, default=Any, covariant=True)
Q = TypeVar("Q", bound=Params)
Outcome = Literal["succeeded", "stopped"]


class ModelCache:
    """Holds one loaded model, by key, for the next job of a process that runs several."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._model: Any = None

    def holds(self, key: Hashable) -> bool:
        return self._model is not None and self._key == key

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """The model of `key`. Evicts any other before calling `load`; callers must not change the result."""
        if self._key != key:
            self._key = self._model = None
            self._model = load()
            self._key = key
        return self._model


@dataclass(frozen=True)
class JobContext(Generic[P]):
    """One attempt at one job. A method is a function `JobContext -> Outcome`.

    It reads `inputs`, which holds what `trainers.contract.spec.Inputs` lists and `control`, writes below `out`, and
    never deletes what it did not write. `cache` is shared by the jobs of a project.
    """

    spec: JobSpec
    params: P
    """Those of the spec, with each `auto` resolved once the method knows its base."""
    inputs: Path
    out: Path
    cache: Path
    processes: Processes
    control: Control
    reporter: Reporter
    models: ModelCache = field(default_factory=ModelCache)
    """Holds what the previous job of this process loaded."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the method adds to the manifest: seconds spent, cache digest, ..."""

    @property
    def dataset(self) -> Path:
        return self.inputs / "dataset"

    @property
    def model(self) -> Path:
        return self.inputs / "model"

    def adaptor(self, index: int) -> Path:
        return self.inputs / "adaptor" / str(index)

    def with_params(self, params: Q) -> "JobContext[Q]":
        """The same job with other parameters: with each `auto` resolved, or those of the method that it inspects."""
        job: JobContext[Any] = self
        return replace(job, params=params)

    @property
    def checkpoint(self) -> Path | None:
        path = self.inputs / "checkpoint"
        return path if (path / "manifest.json").exists() else None


@contextmanager
def job_context(
    spec: JobSpec,
    inputs: Path,
    out: Path,
    cache: Path,
    events: EventWriter | None,
    models: ModelCache | None = None,
) -> Iterator[JobContext]:
    """Joins the job's ranks and listens for commands until the end of the block. `events`: None on every rank but 0.

    Raises TrainerError if the resources are not available or contradict the parameters.
    """
    spec.params.resources_check(spec.resources)
    processes, reporter = start_processes(spec.resources), Reporter(events)
    control = Control(inputs / "control", processes, reporter, takes_signals=spec.params.obeys_control)
    try:
        yield JobContext(spec, spec.params, inputs, out, cache, processes, control, reporter, models or ModelCache())
    finally:
        control.close()
