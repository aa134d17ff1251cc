"""Events: what a trainer reports while it runs, one JSON object per line of `out/events.jsonl`.

Standard library and pydantic only: the worker and the API read the same classes.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from foundation.plain_text import value_clean
from trainers.contract.errors import Reason
from trainers.contract.spec import MAX_BIGINT, MAX_INT

Count = Annotated[int, Field(ge=0, le=MAX_INT)]
"""Of steps and the like: what a column holds."""

EVENT_BYTES = 64 * 1024
"""Limit of one event as JSON; larger ones are cut by `event_fit`."""
TEXT_CHARS = 2000
"""Characters of a long text that stay in an event that is too large."""
MAX_METRICS = 300
"""Metrics that stay in such an event."""


class Payload(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Started(Payload):
    kind: Literal["started"] = "started"
    total: Count
    """Optimizer steps (training) or images/texts (sampling) that the job will make."""
    step: Count = 0
    """Step that the attempt resumes from; 0 for a fresh start."""
    details: dict[str, Any] = {}
    """What was decided at start: device, processes, trainable parameters, cache digests."""


class Progress(Payload):
    """Work before or between steps, so that a long cache build is not taken for a hang."""

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
    """Folder relative to `out/`; complete, since its own manifest.json is written last."""


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

    model_config = ConfigDict(extra="ignore", frozen=True)

    seq: int = Field(ge=1, le=MAX_BIGINT)
    time: float
    """Unix seconds on the worker's clock; for reading, never for ordering."""
    data: AnyPayload


EVENTS = TypeAdapter(Event)


def event_fit(event: Event) -> tuple[Event, str]:
    """`event` as the API accepts it: clean text, finite numbers, at most EVENT_BYTES; and what was left out, or ""."""
    data = value_clean(_finite(event.data.model_dump()))
    fitting = Event(seq=event.seq, time=event.time if math.isfinite(event.time) else 0.0, data=data)
    size = len(fitting.model_dump_json())
    if size <= EVENT_BYTES:
        return fitting, ""
    message = (
        f"An event of kind {event.data.kind} had {size} bytes, at most {EVENT_BYTES} are kept; its rest was left out."
    )
    cut = fitting.model_copy(update={"data": type(fitting.data).model_validate(_cut(data))})
    if len(cut.model_dump_json()) > EVENT_BYTES:
        cut = fitting.model_copy(update={"data": Warning_(message=message)})
    return cut, message


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    """Drops metrics that are not finite; sets other such numbers to 0."""
    numbers = {name: 0.0 for name, value in data.items() if isinstance(value, float) and not math.isfinite(value)}
    metrics = {name: value for name, value in data.get("metrics", {}).items() if math.isfinite(value)}
    return {**data, **numbers, **({"metrics": metrics} if "metrics" in data else {})}


def _cut(data: dict[str, Any]) -> dict[str, Any]:
    """Cuts long texts, drops large `details`, and keeps the first MAX_METRICS metrics."""
    cut: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, str) and name != "path" and len(value) > TEXT_CHARS:
            cut[name] = value[:TEXT_CHARS] + "..."
        elif name == "metrics":
            cut[name] = dict(list(value.items())[:MAX_METRICS])
        elif name == "details" and len(str(value)) > TEXT_CHARS:
            cut[name] = {"left_out": f"{len(str(value))} characters"}
        else:
            cut[name] = _cut(value) if isinstance(value, dict) else value
    return cut


class EventWriter:
    """Appends events to a file, each flushed as one line of at most EVENT_BYTES. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            _cut_torn_line(path)
        self._seq = sum(1 for _ in read_events(path)) if path.exists() else 0
        self._file = path.open("a", encoding="utf-8")

    def emit(self, payload: AnyPayload) -> Event:
        """Writes the event. If it had to be cut, a warning event follows."""
        self._seq += 1
        event, left_out = event_fit(Event.model_construct(seq=self._seq, time=time.time(), data=payload))
        self._file.write(event.model_dump_json() + "\n")
        self._file.flush()
        if left_out:
            self.emit(Warning_(message=left_out))
        return event

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    """Removes the incomplete line that a process leaves if it is killed while it writes."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def read_events(path: Path) -> Iterator[Event]:
    """Complete lines only: a last line without newline is still being written."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield EVENTS.validate_json(line)
