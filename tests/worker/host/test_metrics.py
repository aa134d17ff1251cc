"""What a host tells Prometheus: every name of the docs and no other, with few labels, and true numbers."""

import math
import re
import sys
import types
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from trainers.contract.events import Step
from worker.host.metrics import CacheCollector, CardCollector, Load, LoadMeter, Metrics, TrainingCollector
from worker.transfer.cache import InputCache

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
HOST = Path(__file__).resolve().parents[3] / "worker" / "host" / "host.py"
CARD = Load(0, 0.5, 10, 80, 60.0, 300.0)


def step(**metrics: float) -> Step:
    return Step(
        step=7,
        total=10,
        epoch=0.1,
        metrics=metrics,
        per_second=2.5,
        unit="images",
        peak_memory_bytes=1,
        eta_seconds=1,
    )


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module in the place of `worker.host.nvml`, on a machine without a driver."""
    module = types.ModuleType("an_adapter")
    monkeypatch.setitem(sys.modules, "an_adapter", module)
    return module


def text_of(tmp_path: Path, meter: LoadMeter, steps: list[tuple[int, Step]]) -> str:
    metrics = Metrics()
    metrics.collect(CacheCollector(InputCache(tmp_path, 100)), CardCollector(meter), TrainingCollector(lambda: steps))
    return generate_latest(metrics.registry).decode()


def test_the_page_names_what_the_worker_exports_and_nothing_else(tmp_path: Path) -> None:
    watched = dict.fromkeys(
        (f"anneal_worker_{name}" for name in re.findall(r'watch\("(\w+)"', HOST.read_text())), "gauge"
    )
    reported = re.findall(r"^# TYPE (anneal_\w+) (\w+)$", text_of(tmp_path, LoadMeter("no.such"), []), re.MULTILINE)
    exported = {name.removesuffix("_total"): kind for name, kind in reported if not name.endswith("_created")} | watched
    page = PAGE.read_text().partition("## The worker")[2]
    assert dict(re.findall(r"^\| `(anneal_\w+)` \| (\w+) \|", page, re.MULTILINE)) == exported


def test_the_newest_step_is_told_by_slot_and_only_known_curves(tmp_path: Path) -> None:
    message = step(loss=0.25, learning_rate=1e-4, grad_norm=math.inf, **{f"made_up_{n}": 1.0 for n in range(50)})
    text = text_of(tmp_path, LoadMeter("no.such"), [(1, message)])
    assert 'anneal_worker_training_step{slot="1"} 7.0' in text
    assert 'anneal_worker_training_loss{slot="1"} 0.25' in text
    assert 'anneal_worker_training_per_second{slot="1",unit="images"} 2.5' in text
    assert "made_up" not in text and "inf" not in text.lower().replace("info", "")


def test_cards_are_told_by_index_and_asked_once_a_scrape(tmp_path: Path, adapter: types.ModuleType) -> None:
    requests: list[int] = []
    adapter.loads = lambda: requests.append(1) or [CARD]  # type: ignore[attr-defined,func-returns-value]
    text = text_of(tmp_path, LoadMeter("an_adapter"), [])
    assert 'anneal_worker_accelerator_load_ratio{index="0"} 0.5' in text
    assert 'anneal_worker_accelerator_temperature_celsius{index="0"} 60.0' in text
    assert len(requests) == 1


def test_a_machine_without_driver_or_library_has_no_cards(adapter: types.ModuleType) -> None:
    def fails() -> list[Load]:
        raise OSError("NVML: Driver Not Loaded")

    adapter.loads = fails  # type: ignore[attr-defined]
    meter = LoadMeter("an_adapter")
    assert (meter.loads(), meter.loads(), LoadMeter("no.such.module").loads()) == ([], [], [])


def test_the_real_adapter_answers_or_says_why() -> None:
    nvml = pytest.importorskip("worker.host.nvml", reason="nvidia-ml-py is not installed")
    try:
        result = nvml.loads()
    except OSError as error:
        assert "NVML" in str(error)
    else:
        assert all(0 <= card.load_ratio <= 1 and card.memory_total_bytes > 0 for card in result)
