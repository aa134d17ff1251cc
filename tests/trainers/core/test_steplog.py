import time

import pytest
import torch

from trainers.contract.events import Payload
from trainers.core.reporting import Reporter
from trainers.core.steplog import Entry, StepLog


class Told(Reporter):
    def __init__(self) -> None:
        super().__init__(None)
        self.payloads: list[Payload] = []

    def emit(self, payload: Payload) -> None:
        self.payloads.append(payload)


def test_documents_per_second_stand_beside_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_time_left_does_not_count_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
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
