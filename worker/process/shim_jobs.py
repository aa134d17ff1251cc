"""The shim's end of the pipes to a trainer that serves: attempts go in, their exit statuses come out.

Standard library only.
"""

import json
import os
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Jobs:
    trainer_ends: tuple[int, int] = field(init=False)
    """Standard input and output of the trainer; closed here once it has them."""
    attempt: str = ""
    """What the trainer works on."""
    answers: int | None = None
    """Readable when the trainer has said something; None once it has ended."""
    _lines: int = -1
    _rest: bytes = b""

    def __post_init__(self) -> None:
        read_end, self._lines = os.pipe2(os.O_CLOEXEC)
        self.answers, write_end = os.pipe2(os.O_CLOEXEC)
        self.trainer_ends = (read_end, write_end)

    def give(self, attempt: str, line: dict[str, Any]) -> None:
        assert not self.attempt, f"the trainer still works on {self.attempt}"
        self.attempt = attempt
        try:
            os.write(self._lines, json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            return  # it has died; its end says so

    def read(self) -> int | None:
        """The exit status of the attempt, once the trainer has told it whole."""
        assert self.answers is not None
        data = os.read(self.answers, 4096)
        if not data:
            os.close(self.answers)
            self.answers = None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not lines:
            return None
        return int(json.loads(lines[-1])["code"])
