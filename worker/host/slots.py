"""Which attempts live on this host, and which accelerators are free: counted one by one."""

import threading
import time

from worker.attempt.agent import Agent
from worker.attempt.outcome import StopKind
from worker.host.accelerators import Accelerator


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
