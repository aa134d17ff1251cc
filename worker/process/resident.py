"""One trainer that stays between attempts, seen from the host."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worker.process.launch import Launch
from worker.process.supervise import Exit, ShimProcess, ShimSource, sweep
from worker.process.tree import RESIDENT_MARK
from worker.sandbox.confine import Confinement
from worker.transfer.files import remove_tree

OUTPUT_BYTES = 64 * 1024
"""How much of what a resident printed between attempts goes into the log of the one that it died in."""
Key = tuple[str, tuple[int, ...]]
"""What stays in memory, and on which accelerators."""


class Resident:
    """`env` must carry its mark. What it prints between attempts goes to a file below `folder`.

    `logs`: where the pipes of its attempts lie, which `give` lets it open. `folder` and `tmp` are removed at its end.
    """

    def __init__(
        self,
        shims: ShimSource,
        *,
        name: str,
        key: Key,
        command: Sequence[str],
        folder: Path,
        tmp: Path,
        logs: Path,
        give: Callable[[Path], None],
        env: Mapping[str, str],
        confinement: Confinement,
        kill_seconds: float,
    ) -> None:
        assert env[RESIDENT_MARK] == name, f"environment mark {env.get(RESIDENT_MARK)} is not resident {name}"
        self.name = name
        self.key = key
        self.idle_since = time.monotonic()
        self._folder = folder
        self._tmp = tmp
        self._logs = logs
        self._give = give
        self._current: _Attempt | None = None
        self._doomed = False
        self._lock = threading.RLock()
        self._dead = threading.Event()
        with (folder / "output").open("ab") as output:
            arguments = [RESIDENT_MARK, name, str(kill_seconds), "inf", str(folder)]
            arguments += [confinement.as_text(), "--", *command]
            self._shim: ShimProcess = shims.shim(arguments, env, output.fileno())
        threading.Thread(target=self._watch, name=f"resident-{name[:8]}", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        return self._current is None and not self._doomed and not self.is_dead

    @property
    def is_dead(self) -> bool:
        return self._dead.is_set()

    def begin(self, launch: Launch, log: int, on_idle: Callable[["Resident"], None]) -> "_Attempt":
        """Gives it the attempt, whose output goes to the descriptor `log`; `on_idle` is called once it waits again."""
        with self._lock:
            assert self.is_idle, f"resident {self.name} was given {launch.attempt} while it works or dies"
            pipe = LogPipe(self._logs / launch.attempt, os.dup(log), self._give)
            self._current = _Attempt(self, launch.attempt, pipe, on_idle)
            places = launch.places
            paths = {"spec": places.spec, "in": places.inputs, "out": places.out, "log": pipe.path}
            line = {name: str(path) for name, path in paths.items()}
            job = {"attempt": launch.attempt, "deadline": launch.deadline, "line": line}
            self._order(f"job {json.dumps(job)}")
            return self._current

    def end(self) -> None:
        """SIGKILL; returns once nothing of it is left."""
        with self._lock:
            self._doomed = True
            self._order("kill")
        self._dead.wait()

    def order(self, attempt: "_Attempt", line: str, *, last: bool) -> None:
        """Passed on only while it works on that very attempt; after the `last` one it is never given another."""
        with self._lock:
            if self._current is attempt:
                self._doomed = self._doomed or last
                self._order(line)

    def kill_shim(self, attempt: "_Attempt") -> None:
        with self._lock:
            if self._current is attempt:
                self._doomed = True
                self._shim.kill()

    def _order(self, line: str) -> None:
        assert self._shim.stdin is not None
        try:
            os.write(self._shim.stdin.fileno(), f"{line}\n".encode())
        except (BrokenPipeError, ValueError):
            return  # it has ended meanwhile

    def _watch(self) -> None:
        end = self._listen(self._shim)
        if end is None:
            sweep(RESIDENT_MARK, self.name)
            end = Exit(code=None, shim_died=True)
        with self._lock:
            assert self._shim.stdin is not None
            self._shim.stdin.close()
            self._dead.set()
            current, self._current = self._current, None
        if current:
            current.tell((self._folder / "output").read_bytes()[-OUTPUT_BYTES:])
            current.ended(end)
        remove_tree(self._folder)
        remove_tree(self._tmp)

    def _listen(self, shim: ShimProcess) -> Exit | None:
        """Ends of attempts, until the shim's own last word; None where there was none."""
        assert shim.stdout is not None
        with shim.stdout as reports:
            for line in reports:
                report = json.loads(line) if line.endswith(b"\n") else None
                if report and "attempt" in report:
                    self._idle(report.pop("attempt"), Exit(**report))
                elif report:
                    shim.wait()
                    return Exit(**report)
        shim.wait()
        return None

    def _idle(self, attempt: str, end: Exit) -> None:
        with self._lock:
            current, self._current = self._current, None
            assert current and current.name == attempt, f"resident {self.name} ended {attempt}, not {current}"
            self.idle_since = time.monotonic()
        current.ended(end)
        current.on_idle(self)


class _Attempt:
    """The attempt that a resident works on. Once it has ended, orders do nothing."""

    def __init__(self, resident: Resident, name: str, log: "LogPipe", on_idle: Callable[[Resident], None]) -> None:
        self.name = name
        self.log = log
        self.on_idle = on_idle
        self._resident = resident
        self._exit: Exit | None = None
        self._over = threading.Event()

    def extend(self, deadline: float) -> None:
        self._resident.order(self, f"deadline {deadline!r}", last=False)

    def terminate(self) -> None:
        self._resident.order(self, "terminate", last=True)

    def kill(self) -> None:
        self._resident.order(self, "kill", last=True)

    def kill_shim(self) -> None:
        self._resident.kill_shim(self)

    def wait(self, timeout_seconds: float) -> Exit | None:
        """The end: by then nothing is left of the trainer but the resident, which waits, or not even that."""
        self._over.wait(timeout_seconds)
        return self._exit

    def tell(self, output: bytes) -> None:
        """Into the attempt's log."""
        if output:
            self.log.write(output)

    def ended(self, end: Exit) -> None:
        self.log.close()
        self._exit = end
        self._over.set()


PIECE = 1 << 16


class LogPipe:
    """Copies what comes through the pipe at `path` to the descriptor `target`, which is closed at the end.

    `give` lets the trainer open it. A path, not a descriptor of this process: a confined trainer opens none of ours.
    """

    def __init__(self, path: Path, target: int, give: Callable[[Path], None]) -> None:
        self.path = path
        self._target = target
        os.mkfifo(path, 0o600)
        give(path)
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        self._writer = os.open(path, os.O_RDWR | flags)  # so that the pipe does not end before the trainer opens it
        self._reader = os.open(path, os.O_RDONLY | flags)
        threading.Thread(target=self._copy, name=f"log-{path.name[:8]}", daemon=True).start()

    def write(self, data: bytes) -> None:
        os.write(self._writer, data)

    def close(self) -> None:
        """The copy ends once the trainer has closed its end too."""
        os.close(self._writer)

    def _copy(self) -> None:
        try:
            while data := os.read(self._reader, PIECE):
                while data:
                    data = data[os.write(self._target, data) :]
        finally:
            os.close(self._reader)
            os.close(self._target)
            self.path.unlink(missing_ok=True)
