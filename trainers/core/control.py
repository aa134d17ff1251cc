"""The control file: commands to a running job.

`in/control` holds `{"seq": 3, "command": "save_now"}` and is replaced by rename. Each seq is obeyed once, at a step
boundary, on all ranks alike, and answered by the event `control`. SIGTERM means stop, as a fallback.
"""

import json
import signal
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from trainers.contract.events import Control as ControlEvent
from trainers.contract.events import Warning_
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter

COMMANDS = ("save_now", "sample_now", "stop")
_SHIFT = 3
"""seq and the command's index travel as one integer through the all-reduce: (seq << 3) + index."""


class Command(NamedTuple):
    seq: int
    """0: SIGTERM."""
    name: str


class Control:
    """Reads the file and the signal, and remembers which commands were obeyed."""

    def __init__(self, path: Path, processes: Processes, reporter: Reporter, *, takes_signals: bool = True) -> None:
        self.obeyed_seq = 0
        self._path = path
        self._processes = processes
        self._reporter = reporter
        self._signalled = False
        self._reported_text: str | None = None
        self._previous = signal.signal(signal.SIGTERM, self._on_signal) if takes_signals else None

    def close(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def agree(self) -> Command | None:
        """The command that all ranks obey now, or None. Every rank must call it at the same boundary."""
        newest, signalled = self._processes.agree([self._read(), int(self._signalled)])
        seq, index = newest >> _SHIFT, newest % (1 << _SHIFT)
        if seq > self.obeyed_seq:
            return Command(seq, COMMANDS[index])
        return Command(0, "stop") if signalled else None

    def agree_to_stop(self) -> bool:
        """Whether all ranks stop between two items of work; the loop then obeys the command at its next boundary."""
        command = self.agree()
        return command is not None and command.name == "stop"

    def stop_is_wanted(self) -> bool:
        """Whether this rank sees a request to stop: for work that a single rank does."""
        seq, index = self._read() >> _SHIFT, self._read() % (1 << _SHIFT)
        return self._signalled or (seq > self.obeyed_seq and COMMANDS[index] == "stop")

    def obeyed(self, command: Command, step: int) -> None:
        """Acknowledges a command once its work is done; a signal has no event of its own."""
        if command.seq:
            self._reporter.emit(ControlEvent(seq=command.seq, command=command.name, step=step))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        if callable(self._previous):  # a process that serves several jobs handles it too
            self._previous(number, frame)

    def _read(self) -> int:
        """The file as one integer; 0 where there is no command. Rank 0 alone reads: its host has the file."""
        if self._processes.rank != 0:
            return 0
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return 0
        try:
            command = json.loads(text)
            return (int(command["seq"]) << _SHIFT) + COMMANDS.index(command["command"])
        except (ValueError, KeyError, TypeError) as error:
            self._malformed_report(text, error)
            return 0

    def _malformed_report(self, text: str, error: Exception) -> None:
        if text != self._reported_text:
            self._reported_text = text
            expected = f'{{"seq": n, "command": one of {", ".join(COMMANDS)}}}'
            self._reporter.emit(
                Warning_(message=f"in/control ignored: expected {expected}, got {text[:200]!r} ({error})")
            )
