"""What a training's log says of its steps."""

import time

import pytest
import torch

from trainers.contract.events import Payload, Started, Step, Validation
from trainers.core.reporting import MAX_LINES, Entry, LogLines, Reporter, StepLog


def step(number: int, total: int, **metrics: float) -> Step:
    speed = {"per_second": 12.06, "peak_memory_bytes": 0, "eta_seconds": 3725.4}
    metrics = metrics or {"loss": 0.03125, "learning_rate": 1e-4}
    return Step(step=number, total=total, epoch=1, metrics=metrics, unit="images", **speed)


def lines_of(capsys: pytest.CaptureFixture[str], *payloads: Payload) -> list[str]:
    log = LogLines()
    for payload in payloads:
        log(payload)
    return capsys.readouterr().out.splitlines()


def test_a_short_job_has_a_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    events = [Started(total=2, step=1), step(2, 2), Validation(step=2, metrics={"loss": 0.5})]
    assert lines_of(capsys, *events) == [
        "2 steps, going on from step 1",
        "step 2/2  loss 0.0312  rate 0.0001  12.1 images/s  ETA 1:02:05",
        "validation at step 2  loss 0.5000",
    ]


def test_a_long_job_has_a_small_log(capsys: pytest.CaptureFixture[str]) -> None:
    total = 20_000
    steps = [step(number, total) for number in range(1, total + 1)]
    lines = lines_of(capsys, Started(total=total), *steps)[1:]
    assert lines[0].startswith("step 1/") and lines[-1].startswith(f"step {total}/")
    assert MAX_LINES <= len(lines) <= MAX_LINES + 2 and sum(map(len, lines)) < 50_000


def test_metrics_without_a_loss_are_logged_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, step(1, 1, other=1.0)) == ["step 1/1  12.1 images/s  ETA 1:02:05"]


class Told(Reporter):
    def __init__(self) -> None:
        super().__init__(None)
        self.payloads: list[Payload] = []

    def emit(self, payload: Payload) -> None:
        self.payloads.append(payload)


def test_documents_per_second_are_reported_with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reported = Told()
    log = StepLog(reported, total=4, unit="tokens", device=torch.device("cpu"), log_every=2)
    for step, seconds in enumerate((1, 2, 3, 5), 1):
        now += seconds
        log.add(Entry(step, 0.0, 100 * step, 4, {}, {"loss": torch.tensor(0.5)}, torch.tensor(0.0)))
    message = [
        (payload.per_second, payload.metrics["documents_per_second"])
        for payload in reported.payloads
        if payload.kind == "step"
    ]
    assert message == [(100, 4), (100, 2), (87.5, 1)]


def test_the_time_left_excludes_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step of 100 s, which compiles, then steps of 2 s."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reported = Told()
    log = StepLog(reported, total=10, unit="images", device=torch.device("cpu"))
    for step, seconds in enumerate((100, 2, 2, 2), 1):
        now += seconds
        log.add(Entry(step, 0.0, 4, 0, {"lr": 1e-4}, {"loss": torch.tensor(0.5)}, torch.tensor(0.0)))
    message = [(payload.eta_seconds, payload.per_second) for payload in reported.payloads if payload.kind == "step"]
    assert message == [(900, 0.04), (16, 2), (14, 2), (12, 2)]
