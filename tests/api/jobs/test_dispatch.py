"""The dispatcher as a process: it reaps, stores logs, and ends when it is asked to."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import InternalError, connection
from rest_framework.test import APIClient

from api.audit.clock import now
from api.catalog.versions import checks as pending
from api.jobs.management.commands import dispatch
from api.jobs.models import Attempt, Job
from tests.api.database import running_url
from tests.api.host import Host
from tests.api.jobs.test_claim import submit
from tests.api.jobs.test_queue import wait_for
from tests.api.world import Environ, World
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def dispatcher() -> Iterator[subprocess.Popen[bytes]]:
    url = running_url(str(connection.settings_dict["NAME"]))
    variables = {**os.environ, "ANNEAL_DATABASE_URL": url, "ANNEAL_DISPATCH_SECONDS": "0.1"}
    process = subprocess.Popen([sys.executable, "-m", "api", "dispatch"], env=variables, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_the_dispatcher_ends_lost_attempts_and_then_itself(
    dispatcher: subprocess.Popen[bytes], world: World, user: APIClient, host: Host
) -> None:
    job = submit(user, world)
    host.claim().log(0, b"last words\n")
    Attempt.objects.update(lease_expires_at=now() - timedelta(seconds=60))
    wait_for(lambda: Job.objects.get(pk=job).state == "queued")
    wait_for(lambda: Attempt.objects.get().log_stored == 11)
    dispatcher.send_signal(signal.SIGTERM)
    assert dispatcher.wait(timeout=PATIENCE_SECONDS) == 0


def test_a_single_round_can_be_requested(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    host.claim()
    Attempt.objects.update(lease_expires_at=now() - timedelta(seconds=60))
    call_command("dispatch", "--once")
    assert Attempt.objects.get().outcome == "lost"


def test_a_round_that_fails_in_any_way_does_not_end_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise InternalError("current transaction is aborted")

    monkeypatch.setattr(dispatch, "dispatch_round", fail)
    call_command("dispatch", "--once")


def test_a_check_that_fails_in_any_way_does_not_end_the_thread_of_checks(
    monkeypatch: pytest.MonkeyPatch, environ: Environ
) -> None:
    environ(dispatch_seconds=0.01)
    stop, calls = threading.Event(), list[int]()

    def fail() -> int:
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        raise KeyError("x")

    monkeypatch.setattr(pending, "versions_check", fail)
    pending.versions_check_until(stop)
    assert len(calls) == 2
