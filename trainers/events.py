"""Events: what a trainer says while it runs, one JSON object a line in `out/events.jsonl`.

Standard library and pydantic only: the worker and the API read the same classes.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trainers.errors import Reason
from trainers.spec import MAX_BIGINT, MAX_INT

Count = Annotated[int, Field(ge=0, le=MAX_INT)]
"""Of steps and the like: what a column holds."""


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(Payload):
    kind: Literal["started"] = "started"
    total: Count
    """Optimizer steps (training) or pictures/texts (sampling) that the job will make."""
    step: Count = 0
    """Step that the attempt goes on from; 0 for a fresh start."""
    details: dict[str, Any] = {}
    """What was decided at start: device, processes, trainable parameters, cache digests."""


class Progress(Payload):
    """Work before the first step or beside the steps, so that a long cache build is not taken for a hang."""

    kind: Literal["progress"] = "progress"
    stage: str
    done: Count
    total: Count


class Step(Payload):
    kind: Literal["step"] = "step"
    step: Count
    total: Count
    epoch: float
    metrics: dict[str, float]
    """loss, learning_rate (per group: learning_rate/<group>), grad_norm, ..."""
    per_second: float
    unit: Literal["images", "tokens"]
    peak_memory_bytes: int = Field(ge=0, le=MAX_BIGINT)
    eta_seconds: float


class Validation(Payload):
    kind: Literal["validation"] = "validation"
    step: Count
    metrics: dict[str, float]


class Sample(Payload):
    kind: Literal["sample"] = "sample"
    step: Count
    path: str
    """Relative to `out/`, for instance samples/step-00000100-0.png."""
    label: str = ""
    prompt: str = ""
    seed: int | None = Field(None, ge=-MAX_BIGINT, le=MAX_BIGINT)
    details: dict[str, Any] = {}


class Checkpoint(Payload):
    kind: Literal["checkpoint"] = "checkpoint"
    step: Count
    path: str
    """Folder relative to `out/`; whole, since its own manifest.json is written last."""


class Control(Payload):
    """The command `seq` of `in/control` was obeyed."""

    kind: Literal["control"] = "control"
    seq: Count
    command: str
    step: Count


class Warning_(Payload):  # noqa: N801 - Warning is a builtin
    kind: Literal["warning"] = "warning"
    message: str


class Finished(Payload):
    kind: Literal["finished"] = "finished"
    outcome: Literal["succeeded", "stopped"]
    step: Count


class Failed(Payload):
    kind: Literal["failed"] = "failed"
    reason: Reason


AnyPayload = Annotated[
    Started | Progress | Step | Validation | Sample | Checkpoint | Control | Warning_ | Finished | Failed,
    Field(discriminator="kind"),
]
KINDS = (
    "started",
    "progress",
    "step",
    "validation",
    "sample",
    "checkpoint",
    "control",
    "warning",
    "finished",
    "failed",
)


class Event(BaseModel):
    """One line of events.jsonl. `seq` counts from 1 and is unique within the attempt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(ge=1, le=MAX_BIGINT)
    time: float
    """Unix seconds on the worker's clock; for reading, never for ordering."""
    data: AnyPayload


EVENTS = TypeAdapter(Event)


class EventWriter:
    """Appends events to a file, each flushed as one whole line. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            _cut_torn_line(path)
        self._seq = sum(1 for _ in read_events(path)) if path.exists() else 0
        self._file = path.open("a", encoding="utf-8")

    def emit(self, payload: Payload) -> Event:
        self._seq += 1
        event = Event.model_validate({"seq": self._seq, "time": time.time(), "data": payload.model_dump()})
        self._file.write(event.model_dump_json() + "\n")
        self._file.flush()
        return event

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    """A process that was killed while it wrote leaves half a line, which the next event must not be glued to."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def read_events(path: Path) -> Iterator[Event]:
    """Whole lines only: a last line without its newline is still being written."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield EVENTS.validate_json(line)
