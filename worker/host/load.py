"""How busy this host's accelerators are, where its driver and the library to ask it are there."""

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

ADAPTER = "worker.host.nvml"
FRESH_SECONDS = 1.0
"""Six gauges are asked in one scrape; the driver is asked once."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Load:
    index: int
    """As the driver and `worker.host.accelerators` count."""
    load_ratio: float
    """Share of the last second in which a kernel ran."""
    memory_used_bytes: int
    """By all processes, not by ours alone."""
    memory_total_bytes: int
    temperature_celsius: float
    power_watts: float


class LoadMeter:
    """Empty answers where there is no driver or no `nvidia-ml-py`; both are told once."""

    def __init__(self, adapter: str = ADAPTER) -> None:
        self._ask = _adapter(adapter)
        self._lock = threading.Lock()
        self._asked_at = -FRESH_SECONDS
        self._loads: list[Load] = []

    def loads(self) -> list[Load]:
        with self._lock:
            if self._ask and time.monotonic() - self._asked_at >= FRESH_SECONDS:
                self._refresh(self._ask)
            return self._loads

    def _refresh(self, ask: Callable[[], list[Load]]) -> None:
        self._asked_at = time.monotonic()
        try:
            self._loads = ask()
        except OSError as error:
            log.info("no_accelerator_loads", why=str(error))
            self._loads, self._ask = [], None


def _adapter(name: str) -> Callable[[], list[Load]] | None:
    try:
        loads: Callable[[], list[Load]] = importlib.import_module(name).loads
    except ImportError as error:
        log.info("no_accelerator_loads", why=str(error), hint="install anneal[worker] with nvidia-ml-py")
        return None
    return loads
