"""Real dispatchers check what waits, also what a killed one had begun."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection

from api.audit.clock import now
from api.catalog.models import DatasetVersion
from api.storage import storage_app
from tests.api.actors import person, png, upload
from tests.api.database import running_url
from tests.api.jobs.test_queue import wait_for
from tests.api.world import Environ
from tests.storage.server import serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a dispatcher whose checks copy into `tmp_path`."""
    begun: list[subprocess.Popen[bytes]] = []

    def started() -> subprocess.Popen[bytes]:
        url = running_url(str(connection.settings_dict["NAME"]))
        variables = {**os.environ, "ANNEAL_DATABASE_URL": url, "ANNEAL_DISPATCH_SECONDS": "0.1"}
        command = [sys.executable, "-m", "api", "dispatch"]
        begun.append(subprocess.Popen(command, env={**variables, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL))
        return begun[-1]

    yield started
    for process in begun:
        process.kill()
        process.wait()


def checks(folder: Path) -> list[int]:
    """Processes that look at files in `folder`."""
    result = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"api.catalog.checking" in words and str(folder).encode() in words:
            result.append(int(process.name))
    return result


def test_what_a_killed_dispatcher_began_is_checked_by_the_next(
    links: str, start: Start, environ: Environ, tmp_path: Path
) -> None:
    environ(check_now_bytes=10)
    assert tempfile.gettempdir() != str(tmp_path)
    files = {f"{n}.png": png(6000, 6000, seed=n) for n in range(4)}
    assert upload(person(), links, "datasets", "cats", files).status_code == 202
    first = start()
    wait_for(lambda: bool(checks(tmp_path)))
    first.kill()
    first.wait()
    wait_for(lambda: not checks(tmp_path))
    version = DatasetVersion.objects.get()
    assert (version.state, version.check_tries) == ("checking", 1)
    DatasetVersion.objects.update(check_until=now() - timedelta(seconds=1))
    start()
    wait_for(lambda: DatasetVersion.objects.get().state == "ready")
    assert DatasetVersion.objects.get().check_tries == 2
