"""python -m trainers.run --serve cache/: jobs one after another in one process, which keeps what the last one loaded.

Standard input: one job a line, as JSON {"spec": ..., "in": ..., "out": ..., "log": ...} or as `spec in out` separated
by tabs. `log`, if given, takes the job's own output. Standard output: one JSON object a line once a job has ended,
{"out": ..., "code": 0 or 1}; what jobs print goes to standard error. The process ends with standard input, on SIGTERM
(after the job, which is stopped), and after a failure that may have left something wrong in it.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainers.contract.errors import Reason, ReasonCode

HARMLESS = {
    ReasonCode.BAD_DATASET,
    ReasonCode.BAD_BASE_MODEL,
    ReasonCode.BAD_ADAPTOR,
    ReasonCode.BAD_PARAMETERS,
    ReasonCode.NON_FINITE_LOSS,
}
"""Failures that leave the process intact; after any other it ends."""
NUM_WORDS = 3


class Line(BaseModel):
    """One job to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: Path
    inputs: Path = Field(alias="in")
    out: Path
    log: Path | None = None


class _StopRequest:
    """SIGTERM ends the process: at once while it waits, else after the current job."""

    def __init__(self) -> None:
        self.requested = False
        self.busy = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if not self.busy:
            raise SystemExit(0)


def serve(lines: Iterable[str], run: Callable[[Line], Reason | None]) -> int:
    """Runs each line's job; returns the exit status."""
    with _answers() as answers:
        stop = _StopRequest()
        for text in lines:
            try:
                line = line_parse(text)
            except ValueError as error:
                _answer(answers, {"error": str(error), "code": 2})
                continue
            stop.busy = True
            with _output_to(line.log):
                failure = run(line)
            stop.busy = False
            _answer(answers, {"out": str(line.out), "code": 1 if failure else 0})
            if stop.requested:
                return 0
            if failure and failure.code not in HARMLESS:
                return 1
    return 0


def line_parse(text: str) -> Line:
    """Raises ValueError that states the expected formats."""
    words = text.rstrip("\n").split("\t")
    try:
        if len(words) == NUM_WORDS:
            return Line.model_validate(dict(zip(("spec", "in", "out"), words, strict=True)))
        return Line.model_validate_json(text)
    except ValidationError as error:
        expected = 'expected {"spec": ..., "in": ..., "out": ...} or three paths separated by tabs'
        raise ValueError(f"{expected}, got {text.rstrip()[:200]!r}: {error.errors()[0]['msg']}") from error


def _answer(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


@contextmanager
def _answers() -> Iterator[TextIO]:
    """Reserves standard output for the answers; all other output goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        try:
            yield answers
        finally:
            sys.stdout.flush()
            os.dup2(answers.fileno(), 1)


@contextmanager
def _output_to(log: Path | None) -> Iterator[None]:
    """Standard output and error of this process and of all that it starts, appended to `log`."""
    if log is None:
        yield
        return
    target = os.open(log, os.O_WRONLY | os.O_APPEND)
    before = os.dup(1), os.dup(2)
    try:
        for number in (1, 2):
            os.dup2(target, number)
        os.close(target)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, number)
            os.close(saved)
