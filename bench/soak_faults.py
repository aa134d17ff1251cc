"""Random faults for a running platform, each repaired after a pause."""

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.host import Host
from tests.faults.platform import Platform

HOST_SECONDS = (1, 3, 8, 25)
"""Seconds that a host hangs or is cut off: shorter than its lease, or longer than fence and lease."""
Mend = Callable[[], None]


@dataclass
class Faults:
    """Call `step()` often and from the longest-living thread: the processes that it starts die with that thread."""

    platform: Platform
    hosts: list[Host]
    dice: random.Random
    count: Counter[str] = field(default_factory=Counter)
    _due: list[tuple[float, int, str, Mend]] = field(default_factory=list)
    _broken: set[str] = field(default_factory=set)
    _next: float = 0
    _serial: int = 0

    def step(self, pause_seconds: tuple[float, float]) -> None:
        """Repairs faults that are due, and injects the next one when its time has come."""
        now = time.monotonic()
        self.mend(until=now)
        if now >= self._next:
            self._next = now + self.dice.uniform(*pause_seconds)
            names = list(KINDS)
            kind = self.dice.choices(names, [KINDS[name].weight for name in names])[0]
            KINDS[kind].make(self, kind)

    def mend(self, until: float = float("inf")) -> None:
        while self._due and self._due[0][0] <= until:
            _, _, place, mend = heapq.heappop(self._due)
            mend()
            self._broken.discard(place)

    def broke(self, kind: str, place: str, seconds: float, mend: Mend) -> None:
        """Marks `place` as broken for so long; no other fault is injected there meanwhile."""
        self.count[kind] += 1
        self._broken.add(place)
        self._serial += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._serial, place, mend))

    def whole_host(self) -> Host | None:
        healthy = [host for host in self.hosts if host.folder.name not in self._broken]
        return self.dice.choice(healthy) if healthy else None

    def is_intact(self, name: str) -> bool:
        return name not in self._broken


@dataclass(frozen=True)
class Kind:
    weight: int
    make: Callable[[Faults, str], None]


def kill_child(name: str) -> Callable[[Faults, str], None]:
    def make(faults: Faults, kind: str) -> None:
        if faults.is_intact(name):
            faults.platform.kill(name)
            faults.broke(kind, name, faults.dice.uniform(0, 2), lambda: faults.platform.start(name))

    return make


def stop_child(name: str) -> Callable[[Faults, str], None]:
    def make(faults: Faults, kind: str) -> None:
        if faults.is_intact(name):
            faults.platform.stop(name)
            faults.broke(kind, name, faults.dice.uniform(0.5, 5), lambda: faults.platform.go_on(name))

    return make


def kill_host(faults: Faults, kind: str) -> None:
    if host := faults.whole_host():
        host.kill()
        faults.broke(kind, host.folder.name, faults.dice.uniform(0, 3), host.start)


def stop_host(faults: Faults, kind: str) -> None:
    """Sometimes longer than the lease."""
    if host := faults.whole_host():
        host.signal(signal.SIGSTOP)
        seconds = faults.dice.choice(HOST_SECONDS)
        faults.broke(kind, host.folder.name, seconds, lambda: host.signal(signal.SIGCONT))


def cut_host(faults: Faults, kind: str) -> None:
    if host := faults.whole_host():
        host.api.set("silent" if faults.dice.random() < 0.5 else "down")
        seconds = faults.dice.choice(HOST_SECONDS)
        faults.broke(kind, host.folder.name, seconds, lambda: host.api.set("pass"))


def cut_broker(faults: Faults, kind: str) -> None:
    if host := faults.whole_host():
        host.broker.set("silent" if faults.dice.random() < 0.5 else "down")
        faults.broke(kind, host.folder.name, faults.dice.uniform(0.5, 5), lambda: host.broker.set("pass"))


def cut_storage(faults: Faults, kind: str) -> None:
    proxy = faults.platform.storage
    if faults.is_intact("storage"):
        proxy.set("silent" if faults.dice.random() < 0.5 else "down")
        faults.broke(kind, "storage", faults.dice.uniform(0.5, 3), lambda: proxy.set("pass"))


def kill_in_tree(word: str, *, spared: str | None = None) -> Callable[[Faults, str], None]:
    """A process of a host's attempts with `word` among its arguments."""

    def make(faults: Faults, kind: str) -> None:
        host = faults.whole_host()
        pids = sorted(set(host.pids(word)) - set(host.pids(spared) if spared else ())) if host else []
        if pids:
            with suppress(ProcessLookupError):
                os.kill(faults.dice.choice(pids), signal.SIGKILL)
                faults.count[kind] += 1

    return make


def stop_in_tree(faults: Faults, kind: str) -> None:
    """Suspends a shim or a trainer for a while; it may be killed meanwhile."""
    host = faults.whole_host()
    pids = sorted(host.tree()) if host else []
    if host and pids:
        pid = faults.dice.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            faults.broke(kind, f"pid-{pid}", faults.dice.uniform(0.5, 5), lambda: _go_on(host, pid))


def _go_on(host: Host, pid: int) -> None:
    if pid in host.tree():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


SHIM = "worker.process.shim"
KINDS: dict[str, Kind] = {  # faults with an expensive restart are rare
    "kill -9 host": Kind(2, kill_host),
    "kill -9 shim": Kind(5, kill_in_tree(SHIM)),
    "kill -9 trainer": Kind(5, kill_in_tree("-m", spared=SHIM)),
    "kill -9 API": Kind(1, kill_child("api")),
    "kill -9 dispatcher": Kind(1, kill_child("dispatcher")),
    "kill -9 broker": Kind(2, kill_child("broker")),
    "SIGSTOP host": Kind(3, stop_host),
    "SIGSTOP shim or trainer": Kind(4, stop_in_tree),
    "SIGSTOP API": Kind(1, stop_child("api")),
    "SIGSTOP dispatcher": Kind(1, stop_child("dispatcher")),
    "SIGSTOP broker": Kind(1, stop_child("broker")),
    "cut worker from API": Kind(3, cut_host),
    "cut worker from broker": Kind(1, cut_broker),
    "cut storage": Kind(1, cut_storage),
}
