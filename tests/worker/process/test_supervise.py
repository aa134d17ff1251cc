"""The process tree: whatever is killed, nothing of it is left."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundation.boottime import boottime
from tests.patience import PATIENCE_SECONDS
from tests.worker.conftest import eventually
from worker.process.prepared import Prepared
from worker.process.supervise import Exit, ShimSource, Spawner, Supervisor, sweep
from worker.process.tree import ATTEMPT_MARK, marked

DETACHED = """
import os, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print("ready", flush=True)
"""
SLEEP = DETACHED + "time.sleep(1000)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"


ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])}
StartTrainer = Callable[..., tuple[str, Supervisor]]


@pytest.fixture(params=["new", "forked"])
def shims(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShimSource]:
    """Both ways of starting: as a new program, and forked from a prepared process."""
    spawner = Spawner()
    if request.param == "new":
        yield spawner
    else:
        folder = tmp_path / "prepared"
        folder.mkdir()
        prepared = Prepared(spawner, folder=folder, env=ENV, modules=())
        eventually(lambda: not prepared.is_preparing())
        yield prepared
        prepared.close()
    spawner.close()


@pytest.fixture
def start(shims: ShimSource, tmp_path: Path) -> Iterator[StartTrainer]:
    attempts = []

    def start(code: str, *, kill_seconds: float = 0.3, lease_seconds: float = 60.0) -> tuple[str, Supervisor]:
        attempt = str(uuid.uuid4())
        attempts.append(attempt)
        log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        script = tmp_path / f"{attempt}.py"
        script.write_text(code)
        supervisor = Supervisor(
            shims,
            attempt=attempt,
            command=[sys.executable, str(script)],
            folder=tmp_path,
            env={**ENV, ATTEMPT_MARK: attempt},
            log=log,
            kill_seconds=kill_seconds,
            deadline=boottime() + lease_seconds,
        )
        os.close(log)
        return attempt, supervisor

    yield start
    for attempt in attempts:
        sweep(ATTEMPT_MARK, attempt)


def end_of(supervisor: Supervisor) -> Exit:
    end = supervisor.wait(PATIENCE_SECONDS)
    assert end is not None, f"not within {PATIENCE_SECONDS} s"
    return end


def ready(folder: Path) -> None:
    eventually(lambda: (folder / "log").exists() and "ready" in (folder / "log").read_text())


def test_the_exit_status_comes_through(start: StartTrainer) -> None:
    assert end_of(start("raise SystemExit(7)")[1]).code == 7


def test_what_the_trainer_left_running_is_ended_with_it(start: StartTrainer) -> None:
    attempt, supervisor = start(DETACHED)
    assert end_of(supervisor).code == 0
    assert not marked(ATTEMPT_MARK, attempt)


def test_terminate_kills_a_deaf_trainer_after_the_kill_time(start: StartTrainer, tmp_path: Path) -> None:
    attempt, supervisor = start(DEAF)
    ready(tmp_path)
    supervisor.terminate()
    end = end_of(supervisor)
    assert end.code == -signal.SIGKILL and not end.fenced and not marked(ATTEMPT_MARK, attempt)


def test_the_lease_ends_the_trainer_unless_it_is_prolonged(start: StartTrainer) -> None:
    attempt, supervisor = start(SLEEP, lease_seconds=3)
    prolonged = boottime() + 4
    supervisor.extend(prolonged)
    end = end_of(supervisor)
    assert end.fenced and boottime() >= prolonged and not marked(ATTEMPT_MARK, attempt)


def test_a_trainer_is_not_started_after_the_lease(start: StartTrainer) -> None:
    end = end_of(start("print('ready', flush=True)", lease_seconds=-1)[1])
    assert end.fenced and end.code is None


@pytest.mark.slow
def test_a_shim_that_wakes_long_after_the_lease_kills_at_once(start: StartTrainer, tmp_path: Path) -> None:
    """As after a suspend of the host: another trainer may run by then, so a deaf one gets no kill time any more."""
    lease_seconds, kill_seconds = 5, 15
    attempt, supervisor = start(DEAF, kill_seconds=kill_seconds, lease_seconds=lease_seconds)
    given_away = boottime() + lease_seconds + kill_seconds
    ready(tmp_path)
    os.kill(supervisor.shim_pid, signal.SIGSTOP)
    eventually(lambda: boottime() > given_away)
    woken = boottime()
    os.kill(supervisor.shim_pid, signal.SIGCONT)
    assert end_of(supervisor).fenced and not marked(ATTEMPT_MARK, attempt)
    assert boottime() - woken < kill_seconds


def test_kill_9_of_the_shim_leaves_nothing(start: StartTrainer, tmp_path: Path) -> None:
    attempt, supervisor = start(SLEEP)
    ready(tmp_path)
    assert len(marked(ATTEMPT_MARK, attempt)) == 4
    os.kill(supervisor.shim_pid, signal.SIGKILL)
    end = end_of(supervisor)
    assert end.shim_died and not marked(ATTEMPT_MARK, attempt)


def test_a_stopped_trainer_is_killed_all_the_same(start: StartTrainer, tmp_path: Path) -> None:
    attempt, supervisor = start(SLEEP)
    ready(tmp_path)
    for pid in marked(ATTEMPT_MARK, attempt) - {supervisor.shim_pid}:
        os.kill(pid, signal.SIGSTOP)
    supervisor.terminate()
    assert end_of(supervisor).code in (-signal.SIGKILL, -signal.SIGTERM) and not marked(ATTEMPT_MARK, attempt)


def test_the_shim_imports_the_standard_library_and_us_alone() -> None:
    """It starts anew with each trainer: pydantic alone would cost each four times what the rest does."""
    code = "import sys, worker.process.shim as _; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"__main__", "foundation", "worker"}


@pytest.mark.parametrize("way", ["new", "forked"])
def test_the_death_of_the_one_who_started_the_shim_ends_everything(tmp_path: Path, way: str) -> None:
    """The host's own death is played by a process of its own, which is killed with -9."""
    attempt, script = str(uuid.uuid4()), tmp_path / "script.py"
    script.write_text(SLEEP)
    host = f"""
import os, sys, time
from pathlib import Path
from foundation.boottime import boottime
from worker.process.prepared import Prepared
from worker.process.supervise import Spawner, Supervisor
folder, spawner = Path({str(tmp_path)!r}), Spawner()
prepared = Prepared(spawner, folder=folder, env={ENV!r}, modules=())
while {way!r} == "forked" and prepared.is_preparing():
    time.sleep(0.02)
supervisor = Supervisor(prepared, attempt={attempt!r}, command=[sys.executable, {str(script)!r}], folder=folder,
    env={{**{ENV!r}, "ANNEAL_ATTEMPT": {attempt!r}}}, log=os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT),
    kill_seconds=5, deadline=boottime() + 60)
print(type(supervisor._shim).__name__, flush=True)
time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", host], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with process.stdout as output:
            assert output.readline().decode().strip() == {"new": "Popen", "forked": "ForkedShim"}[way]
        ready(tmp_path)
        assert len(marked(ATTEMPT_MARK, attempt)) == 4
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not marked(ATTEMPT_MARK, attempt))
