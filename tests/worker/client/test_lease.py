"""The lease of an attempt on the worker: how far an answered heartbeat carries it, and that its end is final."""

import pytest

from worker.client import lease as lease_module
from worker.client.lease import Lease
from worker.errors import FencedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """CLOCK_BOOTTIME, moved by assignment to its one element."""
    time = [1000.0]
    monkeypatch.setattr(lease_module, "boottime", lambda: time[0])
    return time


def test_a_lease_lasts_from_the_sending_of_its_heartbeat(clock: list[float]) -> None:
    lease = Lease(1000.0, 240.0)
    clock[0] = 1239.9
    lease.check()
    lease.renew(1100.0)
    clock[0] = 1339.9
    lease.check()
    clock[0] = 1340.0
    with pytest.raises(FencedError, match="without an answered heartbeat"):
        lease.check()


def test_a_lease_that_nobody_looked_at_in_time_is_over(clock: list[float]) -> None:
    lease = Lease(1000.0, 240.0)
    clock[0] = 5000.0
    with pytest.raises(FencedError):
        lease.check()


def test_an_answer_to_an_older_heartbeat_shortens_nothing(clock: list[float]) -> None:
    lease = Lease(1000.0, 240.0)
    lease.renew(1100.0)
    lease.renew(1050.0)
    clock[0] = 1339.0
    lease.check()
    assert lease.deadline == 1340.0


def test_a_lapsed_lease_cannot_be_revived(clock: list[float]) -> None:
    lease = Lease(1000.0, 240.0)
    clock[0] = 1240.0
    with pytest.raises(FencedError):
        lease.check()
    lease.renew(1239.0)
    clock[0] = 1241.0
    with pytest.raises(FencedError):
        lease.check()
    assert lease.over.is_set() and lease.deadline == 1240.0


def test_a_refused_lease_ends_at_once_and_keeps_the_first_reason(clock: list[float]) -> None:
    lease = Lease(clock[0], 240.0)
    lease.refuse("the job was given away")
    lease.refuse("later")
    lease.renew(clock[0])
    with pytest.raises(FencedError, match="the job was given away"):
        lease.check()
