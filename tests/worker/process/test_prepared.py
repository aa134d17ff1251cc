"""Trainers that are forked from a prepared process: they find what new ones find, and no fault of it is theirs."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from foundation.boottime import boottime
from tests.patience import PATIENCE_SECONDS
from tests.worker.conftest import eventually
from worker.process import prepared as module
from worker.process.forked import ForkedShim
from worker.process.prepared import Prepared
from worker.process.supervise import Exit, ShimSource, Spawner, Supervisor
from worker.process.tree import ATTEMPT_MARK, WORKER_MARK, marked
from worker.sandbox.confine import Confinement

ROOT = Path(__file__).resolve().parents[3]
FACTS = Path(__file__).with_name("facts.py")
ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
LIMITS = Confinement(limits={"CORE": 0, "NOFILE": 1000})


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    created = Spawner()
    yield created
    created.close()


@contextmanager
def prepared_process(spawner: Spawner, folder: Path, modules: Sequence[str] = (), **env: str) -> Iterator[Prepared]:
    folder.mkdir(exist_ok=True)
    created = Prepared(spawner, folder=folder, env={**ENV, **env}, modules=modules)
    eventually(lambda: not created.is_preparing(), what="the prepared process is ready")
    yield created
    created.close()


@pytest.fixture
def prepared(spawner: Spawner, tmp_path: Path) -> Iterator[Prepared]:
    with prepared_process(spawner, tmp_path / "prepared") as created:
        yield created


class Trainer:
    """One attempt of a script, started through `shims`."""

    def __init__(
        self, shims: ShimSource, folder: Path, *command: str, confinement: Confinement = LIMITS, **env: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.attempt = str(uuid.uuid4())
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.supervisor = Supervisor(
                shims,
                attempt=self.attempt,
                command=[sys.executable, *command],
                folder=folder,
                env={**ENV, ATTEMPT_MARK: self.attempt, WORKER_MARK: "worker", **env},
                log=log.fileno(),
                kill_seconds=0.3,
                deadline=boottime() + 120,
                confinement=confinement,
            )

    @property
    def is_forked(self) -> bool:
        return isinstance(self.supervisor._shim, ForkedShim)

    def end(self) -> Exit:
        end = self.supervisor.wait(PATIENCE_SECONDS)
        assert end is not None, f"not within {PATIENCE_SECONDS} s: {self.log.read_text()}"
        return end


def script(folder: Path, code: str) -> str:
    path = folder / f"{uuid.uuid4()}.py"
    path.write_text(code)
    return str(path)


def pid_of(prepared: Prepared) -> int:
    assert prepared._forker is not None
    return prepared._forker._process.pid


def test_a_forked_trainer_finds_what_a_new_one_finds(spawner: Spawner, prepared: Prepared, tmp_path: Path) -> None:
    facts = []
    for shims in (spawner, prepared):
        trainer = Trainer(shims, tmp_path / "attempt", str(FACTS), "spec.json", "in", HOME="/nowhere")
        assert trainer.end() == Exit(code=7), trainer.log.read_text()
        assert trainer.is_forked == (shims is prepared)
        facts.append(json.loads(trainer.log.read_text().splitlines()[-1]))
        assert facts[-1].pop(ATTEMPT_MARK) == trainer.attempt
    new, forked = facts
    assert forked == new


def test_a_module_runs_as_a_program_does(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    folder.mkdir()
    (folder / "program.py").write_text("import sys; print(__name__, sys.argv[1:]); raise SystemExit(3)")
    trainer = Trainer(prepared, folder, "-m", "program", "a", "b")
    assert trainer.end().code == 3 and trainer.is_forked
    assert trainer.log.read_text() == "__main__ ['a', 'b']\n"


def test_a_job_of_another_environment_starts_anew(prepared: Prepared, tmp_path: Path) -> None:
    """What libraries read when they are imported must be what the job has; so must a secret never be there."""
    trainer = Trainer(prepared, tmp_path / "attempt", script(tmp_path, "pass"), OMP_NUM_THREADS="2")
    assert trainer.end().code == 0 and not trainer.is_forked


def test_jobs_outlive_the_prepared_process_and_the_next_ones_start_anew(prepared: Prepared, tmp_path: Path) -> None:
    waits = script(tmp_path, "import sys; print('ready', flush=True); sys.exit(5 if sys.stdin.read() else 6)")
    trainer = Trainer(prepared, tmp_path / "attempt", waits)
    eventually(lambda: "ready" in trainer.log.read_text())
    first = pid_of(prepared)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{first}/cmdline").read_bytes(), what="the prepared process is dead")
    second = Trainer(prepared, tmp_path / "second", script(tmp_path, "raise SystemExit(4)"))
    assert second.end().code == 4 and not second.is_forked
    eventually(lambda: not prepared.is_preparing())
    third = Trainer(prepared, tmp_path / "third", script(tmp_path, "raise SystemExit(3)"))
    assert third.end().code == 3 and third.is_forked and pid_of(prepared) != first
    assert trainer.supervisor.wait(0) is None, "the first job goes on"
    trainer.supervisor.terminate()
    assert trainer.end().code == -signal.SIGTERM


def test_a_prepared_process_that_hangs_is_killed_and_its_job_starts_once(prepared: Prepared, tmp_path: Path) -> None:
    assert prepared._forker
    prepared._forker._control.settimeout(0.2)
    os.kill(pid_of(prepared), signal.SIGSTOP)
    trainer = Trainer(prepared, tmp_path / "attempt", script(tmp_path, "print('once')"))
    assert trainer.end().code == 0 and not trainer.is_forked
    assert trainer.log.read_text() == "once\n" and prepared._forker is None


def test_a_shim_whose_host_is_gone_before_it_starts_starts_no_trainer(prepared: Prepared, tmp_path: Path) -> None:
    """The fork of a prepared process that answered too late: the host has closed its end by then."""
    assert prepared._forker
    lease = [str(boottime() + 60), str(tmp_path), Confinement().as_text()]
    attempt, program = str(uuid.uuid4()), script(tmp_path, "print('started', flush=True)")
    arguments = [ATTEMPT_MARK, attempt, "1", *lease, "--", sys.executable, program]
    log = tmp_path / "log"
    with log.open("wb") as output:
        os.kill(pid_of(prepared), signal.SIGSTOP)
        read_end, write_end = os.pipe()
        message = json.dumps({"arguments": arguments, "env": {**ENV, ATTEMPT_MARK: attempt}}).encode()
        socket.send_fds(prepared._forker._control, [message], [read_end, output.fileno(), output.fileno()])
        os.close(read_end)
        os.close(write_end)
        os.kill(pid_of(prepared), signal.SIGCONT)
        answer, descriptors, _, _ = socket.recv_fds(prepared._forker._control, 1000, 1)
        ForkedShim(json.loads(answer)["pid"], *descriptors, None, None).wait()
    assert log.read_text() == ""


def test_it_is_renewed_when_what_is_installed_changes(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pid_of(prepared)
    assert not prepared.is_preparing() and pid_of(prepared) == first
    monkeypatch.setattr(module, "installed_digest", lambda: "another")
    eventually(lambda: not prepared.is_preparing())
    assert pid_of(prepared) != first and not Path(f"/proc/{first}").exists()


@pytest.mark.parametrize("name", ["thread", "file", "error"])
def test_what_is_unfit_for_a_fork_is_given_up_and_jobs_start_anew(
    spawner: Spawner, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that starts a thread, or opens a device, where it is imported; one that cannot be imported."""
    log = structlog.testing.CapturingLogger()
    monkeypatch.setattr(module, "log", log)
    unfit = "tests.worker.process.unfit"
    with prepared_process(spawner, tmp_path / "prepared", [unfit], UNFIT=name) as prepared:
        trainer = Trainer(prepared, tmp_path / "attempt", script(tmp_path, "print('done')"), UNFIT=name)
        assert trainer.end().code == 0 and not trainer.is_forked and trainer.log.read_text() == "done\n"
        assert not prepared.is_preparing() and prepared._forker is None, "it is not tried again"
    (call,) = [call for call in log.calls if call.args == ("no_prepared_process",)]
    assert {"thread": "2 threads", "file": "/dev/full", "error": "no such library"}[name] in str(call.kwargs)


def test_the_prepared_process_has_no_mark_and_no_token(prepared: Prepared, tmp_path: Path) -> None:
    environment = Path(f"/proc/{pid_of(prepared)}/environ").read_bytes()
    assert not [mark for mark in (ATTEMPT_MARK, WORKER_MARK) if f"{mark}=".encode() in environment]
    trainer = Trainer(prepared, tmp_path / "attempt", script(tmp_path, "import time; time.sleep(100)"))
    assert trainer.is_forked
    eventually(lambda: len(marked(ATTEMPT_MARK, trainer.attempt)) == 2, what="shim and trainer bear the mark")
    assert pid_of(prepared) not in marked(ATTEMPT_MARK, trainer.attempt) | marked(WORKER_MARK, "worker")
    trainer.supervisor.kill()
    trainer.end()


def test_it_ends_with_its_host(tmp_path: Path) -> None:
    host = f"""
import os, sys, time
from pathlib import Path
from worker.process.prepared import Prepared
from worker.process.supervise import Spawner
made = Prepared(Spawner(), folder=Path({str(tmp_path)!r}), env=dict(os.environ), modules=())
while made.is_preparing():
    time.sleep(0.02)
print(made._forker._process.pid, flush=True)
time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", host], stdout=subprocess.PIPE, env=ENV)
    assert process.stdout is not None
    with process.stdout as output:
        pid = int(output.readline())
    process.kill()
    process.wait()
    eventually(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())


def test_a_forked_trainer_of_another_user_reads_its_own_process_alone(prepared: Prepared) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run trainers as another user")
    code = """
import os
print(os.getuid(), os.path.exists("/proc/self/fd/0"), open("/proc/self/environ", "rb").read(1) != b"")
for pid in (os.getppid(), PREPARED):
    try:
        print(open(f"/proc/{pid}/environ", "rb").read(1))
    except PermissionError:
        print("refused")
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = script(folder, code.replace("PREPARED", str(pid_of(prepared))))
        trainer = Trainer(prepared, folder, path, confinement=Confinement(uid=65534, gid=65534))
        assert trainer.end().code == 0, trainer.log.read_text()
        assert trainer.log.read_text().split() == ["65534", "True", "True", "refused", "refused"]
