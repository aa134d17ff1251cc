"""What Prometheus may ask of a worker host."""

import importlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainers.contract.events import Step
from worker.transfer.cache import InputCache

ADAPTER = "worker.host.nvml"
FRESH_SECONDS = 1.0
"""Six gauges are asked in one scrape; the driver is asked once."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Load:
    index: int
    """As the driver and `worker.host.slots` count."""
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


CARD_VALUES = {
    "load_ratio": "Share of the last second in which the accelerator ran a kernel.",
    "memory_used_bytes": "Memory in use on the accelerator, by all processes.",
    "memory_total_bytes": "Memory of the accelerator.",
    "temperature_celsius": "Temperature of the accelerator.",
    "power_watts": "Power that the accelerator draws.",
}
CURVES = ("loss", "learning_rate", "grad_norm")
"""Of a step's metrics, those that are told: a trainer may send any name, and labels must stay few."""


class Metrics:
    """One registry per host. `start` serves it as text on a port of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.claims = Counter("anneal_worker_claims", "Attempts claimed by this host.", registry=self.registry)
        self.ended = Counter(
            "anneal_worker_attempts_ended", "Attempts that ended on this host.", registry=self.registry
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for when it is scraped."""
        Gauge(f"anneal_worker_{name}", help_text, registry=self.registry).set_function(value)

    def collect(self, *collectors: Collector) -> None:
        for collector in collectors:
            self.registry.register(collector)

    def start(self, port: int, address: str) -> int:
        """Returns the port that is served, which the system chooses where 0 was asked."""
        server, _ = start_http_server(port, addr=address, registry=self.registry)
        return int(server.server_port)


class CacheCollector(Collector):
    def __init__(self, cache: InputCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        yield _gauge("cache_bytes", "Inputs that are kept on this host.", self._cache.size_bytes())
        yield _gauge("cache_limit_bytes", "Room for them.", self._cache.limit_bytes)
        requests = CounterMetricFamily(
            "anneal_worker_cache_inputs", "Inputs that attempts asked for: hit or fetched.", labels=["result"]
        )
        requests.add_metric(["hit"], self._cache.hits)
        requests.add_metric(["fetched"], self._cache.fetched)
        yield requests


class CardCollector(Collector):
    """One sample for each accelerator of the host; none where the driver is not there."""

    def __init__(self, meter: LoadMeter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        loads = self._meter.loads()
        for name, help_text in CARD_VALUES.items():
            family = GaugeMetricFamily(f"anneal_worker_accelerator_{name}", help_text, labels=["index"])
            for load in loads:
                family.add_metric([str(load.index)], getattr(load, name))
            yield family


class TrainingCollector(Collector):
    """The newest step of each live attempt, by slot: as many series as slots, however many jobs come and go."""

    def __init__(self, steps: Callable[[], Iterable[tuple[int, Step]]]) -> None:
        self._steps = steps

    def collect(self) -> Iterator[Metric]:
        steps = list(self._steps())
        yield _by_slot("step", "Step of the training.", ((slot, step.step) for slot, step in steps))
        yield _by_slot("total_steps", "Steps that it will have.", ((slot, step.total) for slot, step in steps))
        speed = GaugeMetricFamily(
            "anneal_worker_training_per_second", "Images or tokens per second.", labels=["slot", "unit"]
        )
        for slot, step in steps:
            speed.add_metric([str(slot), step.unit], step.per_second)
        yield speed
        for name in CURVES:
            values = ((slot, step.metrics[name]) for slot, step in steps if name in step.metrics)
            yield _by_slot(name, f"The training's {name.replace('_', ' ')} at its newest step.", values)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"anneal_worker_{name}", help_text, value=value)


def _by_slot(name: str, help_text: str, values: Iterable[tuple[int, float]]) -> Metric:
    family = GaugeMetricFamily(f"anneal_worker_training_{name}", help_text, labels=["slot"])
    for slot, value in values:
        if math.isfinite(value):
            family.add_metric([str(slot)], value)
    return family
