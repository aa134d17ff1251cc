"""Which accelerators this host has, which attempts live on them, and what is free."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from worker.attempt.agent import Agent
from worker.attempt.outcome import StopKind

PROC_GPUS = Path("/proc/driver/nvidia/gpus")
QUERY = ["--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]


class Accelerator(BaseModel):
    model_config = ConfigDict(frozen=True)

    index: int
    name: str
    memory_bytes: int
    """0 where the driver does not say."""


def accelerators_of(setting: str) -> tuple[Accelerator, ...]:
    """`auto`, `none`, or indices such as `0,2`. Raises ValueError for an index that the driver does not show."""
    if setting == "none":
        return ()
    by_index = {accelerator.index: accelerator for accelerator in _found()}
    if setting == "auto":
        return tuple(by_index.values())
    indices = [int(word) for word in setting.split(",")]
    missing = [index for index in indices if index not in by_index]
    if missing:
        raise ValueError(
            f"ANNEAL_ACCELERATORS={setting}: index {missing} not found; the driver shows {sorted(by_index)}"
        )
    return tuple(by_index[index] for index in indices)


def _found() -> list[Accelerator]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return _from_proc()
    answer = subprocess.run([tool, *QUERY], capture_output=True, text=True, timeout=60, check=False)
    return parse_query(answer.stdout) if answer.returncode == 0 else _from_proc()


def parse_query(text: str) -> list[Accelerator]:
    """Lines such as `0, NVIDIA H200, 143771`: index, name, mebibytes."""
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.count(",") >= 2]
    return [
        Accelerator(index=int(row[0]), name=row[1], memory_bytes=int(row[-1]) * 2**20 if row[-1].isdigit() else 0)
        for row in rows
        if row[0].isdigit()
    ]


def _from_proc() -> list[Accelerator]:
    if not PROC_GPUS.is_dir():
        return []
    texts = [(folder / "information").read_text() for folder in sorted(PROC_GPUS.iterdir())]
    return [Accelerator(index=index, name=_model(text), memory_bytes=0) for index, text in enumerate(texts)]


def _model(text: str) -> str:
    lines = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model:")]
    return lines[0] if lines else "NVIDIA"


Result = Literal["passed", "failed"]


def self_check(
    code: str, *, setting: str, accelerators: Sequence[Accelerator], has_room: Callable[[], bool]
) -> Result | None:
    """`code`: of the Reason that led to the quarantine. None for what only a person can judge, as a missing library."""
    if code == "disk_full":
        return "passed" if has_room() else "failed"
    if code == "no_accelerator":
        return "passed" if _driver_shows(setting, accelerators) else "failed"
    return None


def _driver_shows(setting: str, accelerators: Sequence[Accelerator]) -> bool:
    """Whether the driver shows every accelerator that this worker registered."""
    try:
        visible = {accelerator.index for accelerator in accelerators_of(setting)}
    except (OSError, ValueError):
        return False
    return {accelerator.index for accelerator in accelerators} <= visible


class Slots:
    def __init__(self, count: int, accelerators: tuple[Accelerator, ...]) -> None:
        self._count = count
        self._accelerators = [accelerator.index for accelerator in accelerators]
        self._live: dict[str, tuple[Agent, tuple[int, ...]]] = {}
        self._numbers: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()
        self.empty = threading.Event()
        self.empty.set()

    def take(self, attempt: str, agent: Agent, accelerators: tuple[int, ...]) -> None:
        """Raises AssertionError for an accelerator that is not free: the API keeps the same books."""
        with self._lock:
            taken = [index for index in accelerators if index not in self._free_accelerators()]
            assert not taken, f"attempt {attempt} was given accelerators {taken}, free are {self._free_accelerators()}"
            self._live[attempt] = (agent, accelerators)
            self._started[attempt] = time.time()
            self._numbers[attempt] = next(n for n in range(len(self._live)) if n not in self._numbers.values())
            self.empty.clear()

    def give_back(self, attempt: str) -> None:
        with self._lock:
            self._live.pop(attempt, None)
            self._numbers.pop(attempt, None)
            self._started.pop(attempt, None)
            if not self._live:
                self.empty.set()

    def free(self) -> int:
        return self._count - len(self._live)

    def free_accelerators(self) -> list[int]:
        with self._lock:
            return self._free_accelerators()

    def oldest_start(self) -> float:
        """Unix time at which the oldest live attempt was taken; now, where none lives."""
        with self._lock:
            return min(self._started.values(), default=time.time())

    def live(self) -> list[str]:
        with self._lock:
            return sorted(self._live)

    def agents(self) -> dict[int, Agent]:
        """By slot: the lowest free number, kept while the attempt lives."""
        with self._lock:
            return {self._numbers[attempt]: agent for attempt, (agent, _) in self._live.items()}

    def stop_all(self, kind: StopKind) -> None:
        with self._lock:
            for agent, _ in self._live.values():
                agent.stop_request.stop(kind)

    def hurry_all(self) -> None:
        with self._lock:
            for agent, _ in self._live.values():
                agent.stop_request.escalate()

    def _free_accelerators(self) -> list[int]:
        used = {index for _, indices in self._live.values() for index in indices}
        return [index for index in self._accelerators if index not in used]
