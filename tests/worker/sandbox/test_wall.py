"""The wall around trainers: what a hostile one tries is refused, by each kind of wall that works on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import HostProcess, StartHost, eventually, hosts
from tests.worker.fake_api import WORKER_TOKEN, Attempt, FakeApi
from worker.process.supervise import Spawner, Supervisor
from worker.process.tree import ATTEMPT_MARK, marked
from worker.sandbox.confine import Confinement, confine
from worker.sandbox.landlock import MINIMUM_ABI, landlock_abi
from worker.sandbox.wall_check import wall_barred, wall_here
from worker.settings import settings_read

SPY = Path(__file__).resolve().parents[1] / "spy_trainer.py"
STRANGER, NEIGHBOUR = "6" * 8, "7" * 8
KINDS = ("landlock", "user", "user+landlock")
MODEL = "ab" * 32
PATIENCE = 120.0
"""Seconds; a machine under load is slow, and no verdict here is about time."""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that other users can pass, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="anneal-wall-"))
    folder.chmod(0o755)
    shutil.copy(SPY, folder / "spy.py")
    (folder / "spy.py").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, root: Path) -> dict[str, str]:
    """For a host with that wall and a spy for a trainer; skips where the wall cannot work."""
    kind: str = request.param
    if "landlock" in kind and landlock_abi() < MINIMUM_ABI:
        pytest.skip("this kernel has no Landlock")
    if "user" in kind and os.geteuid() != 0:
        pytest.skip("only root can run trainers as another user")
    python = sys.executable
    if "user" in kind:
        choices = [path for path in (sys.executable, "/usr/bin/python3") if Path(path).exists() and not barred(path)]
        if not choices:
            pytest.skip("another user can reach no Python here")
        python = choices[0]
    return {
        "ANNEAL_TRAINER_WALL": kind if "+" not in kind else "auto",
        "ANNEAL_TRAINER_USER": "65534" if "+" in kind else "",
        "ANNEAL_TRAINER_PYTHON": python,
        "ANNEAL_TRAINER_COMMAND": f"{python} {root}/spy.py",
        "ANNEAL_TRAINER_WRITES": "",
        "ANNEAL_SLOTS": "2",
    }


def barred(path: str) -> str:
    return wall_barred(Path(path))


@pytest.fixture
def start(root: Path, api: FakeApi, settings: dict[str, str]) -> Iterator[StartHost]:
    api.times |= {"lease_seconds": 120.0, "self_fence_seconds": 60.0, "request_timeout_seconds": 20.0}
    with hosts(root, api, as_program=True) as start_host:  # its environment and memory are among what is guarded
        yield lambda **more: start_host(**(settings | more))


def add(api: FakeApi, name: str, project: str, plan: dict[str, Any], method: str = "stub") -> str:
    """Queues a spy with `plan`; returns the digest of its dataset."""
    job = {"id": f"job-{name}", "name": name, "project": project, "method": method}
    inputs = {"model": {"name": "base@1", "key": "models/1", "sha256": MODEL}}
    spec = {"name": name, "method": method, "params": {"prompt": "a dog"}, "inputs": inputs, "resources": {}}
    data = api.add_input({"plan.json": json.dumps(plan).encode(), "secret.txt": name.encode()}, prefix=name)
    with api.lock:
        api.queue.append({"job": job, "spec": spec, "inputs": {"dataset": data}})
    return str(data["sha256"])


def attempt_of(api: FakeApi, name: str) -> Attempt | None:
    return next((one for one in api.attempts.values() if one.claim["job"]["name"] == name), None)


def report(api: FakeApi, name: str) -> dict[str, Any]:
    """What the spy printed."""

    def printed() -> str:
        attempt = attempt_of(api, name)
        return attempt.log.decode() if attempt and attempt.log.endswith(b"\n") else ""

    text: str = eventually(printed, what=f"the report of {name}")
    result: dict[str, Any] = json.loads(text.splitlines()[-1])
    return result


def victim(api: FakeApi, host: HostProcess) -> dict[str, str]:
    """Another project's attempt that runs: its folders."""
    dataset = add(api, "victim", STRANGER, {"try": {}, "stay": True})
    assert report(api, "victim")["worked"] == ["its own"]
    attempt = attempt_of(api, "victim")
    assert attempt
    folder, cache = host.folder / "state" / "attempts" / attempt.id, host.folder / "state" / "cache" / "entries"
    return {
        "its input": str(folder / "in" / "dataset" / "secret.txt"),
        "its spec": str(folder / "spec.json"),
        "its events": str(folder / "out" / "events.jsonl"),
        "its input in the cache": str(cache / dataset / "files" / "secret.txt"),
        "its trainer cache": str(host.folder / "state" / "trainer-cache" / STRANGER / "left"),
    }


def forbidden(host: HostProcess, others: dict[str, str]) -> dict[str, list[Any]]:
    pid, folder = host.process.pid, host.folder
    for name in ("worker_token", "db.sqlite3"):
        (folder / name).write_text(WORKER_TOKEN)
        (folder / name).chmod(0o600)
    return {
        "the worker's token": ["read", str(folder / "worker_token")],
        "the database": ["read", str(folder / "db.sqlite3")],
        "the worker's environment": ["read", f"/proc/{pid}/environ"],
        "the worker's memory": ["read", f"/proc/{pid}/mem"],
        "the worker's folder by /proc": ["list", f"/proc/{pid}/cwd/state"],
        "a write to the worker's memory": ["write", f"/proc/{pid}/mem"],
        "a signal to the worker": ["kill", pid],
        "a write outside": ["write", str(folder / "new")],
        "a write to the state folder": ["write", str(folder / "state" / "new")],
        "a removal outside": ["unlink", str(folder / "db.sqlite3")],
        "the list of attempts": ["list", str(folder / "state" / "attempts")],
        "the finishes": ["list", str(folder / "state" / "finishes")],
        **{name: ["read", path] for name, path in others.items()},
        **{f"a write to {name}": ["write", path] for name, path in others.items()},
        **{f"a list around {name}": ["list", str(Path(path).parent)] for name, path in others.items()},
    }


def test_a_hostile_trainer_reaches_nothing_but_its_own(
    api: FakeApi, start: StartHost, settings: dict[str, str], root: Path
) -> None:
    host = start()
    assert eventually(lambda: api.hellos)[-1]["wall"] == kind_of(settings)
    tries = forbidden(host, victim(api, host))
    shm = Path("/dev/shm") / f"anneal-test-{root.name}"
    tries |= {"allowed: shared memory": ["write", str(shm)]}
    add(api, "spy", NEIGHBOUR, {"try": tries})
    result = report(api, "spy")
    shm.unlink(missing_ok=True)
    assert result["worked"] == ["allowed: shared memory", "its own"]
    assert (result["NoNewPrivs"], result["CapEff"], result["CORE"]) == ("1", "0" * 16, 0)
    assert result["uid"] == (65534 if "user" in kind_of(settings) else os.geteuid())
    assert 0 < result["FSIZE"] <= 512 * 1024**3 and result["DATA"] > 0
    eventually(lambda: attempt_of(api, "spy").finish, what="finish")  # type: ignore[union-attr]
    assert attempt_of(api, "spy").finish["outcome"] == "succeeded"  # type: ignore[union-attr]


def test_the_wall_stands_around_a_resident_too(api: FakeApi, start: StartHost) -> None:
    host = start()
    tries = forbidden(host, victim(api, host))
    pids = set()
    for name, project in (("one", NEIGHBOUR), ("two", NEIGHBOUR), ("three", "8" * 8)):
        add(api, name, project, {"try": tries}, method="sample_image")
        result = report(api, name)
        assert result["worked"] == ["its own"]
        pids.add(result["pid"])
        eventually(lambda name=name: attempt_of(api, name).finish, what="finish")  # type: ignore[union-attr,misc]
    assert len(pids) == 2, "one resident for the two jobs of a project, another one for the next project"


def test_trainers_behind_the_wall_are_killed_like_any_other(api: FakeApi, start: StartHost) -> None:
    host = start()
    victim(api, host)
    assert len(host.tree()) >= 2
    host.kill()
    eventually(lambda: not host.tree(), what="nothing is left")


def kind_of(settings: dict[str, str]) -> str:
    return "user+landlock" if settings["ANNEAL_TRAINER_USER"] else settings["ANNEAL_TRAINER_WALL"]


needs_landlock = pytest.mark.skipif(landlock_abi() < MINIMUM_ABI, reason="this kernel has no Landlock")


@needs_landlock
@pytest.mark.parametrize("network", ["none", "ranks", "any"])
def test_a_job_that_does_not_fetch_connects_to_no_service(tmp_path: Path, network: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", low_port()))) as server:
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / "plan.json").write_text(json.dumps({"try": reachable(server)}))
        (tmp_path / "spec.json").write_text('{"name": "n"}')
        confinement = Confinement(
            paths={"run": ("/",), "change": (str(tmp_path),), "device": ("/dev/null",)},
            network=network,
            limits={"CORE": 0},
        )
        text = confined(tmp_path, [sys.executable, str(SPY), "spec.json", ".", ".", "."], confinement)
    expected = {"none": set(), "ranks": {"listen"}, "any": {"connect", "listen"}}[network]
    assert json.loads(text.splitlines()[-1])["worked"] == sorted({*expected, "its own"})


def low_port() -> int:
    """A free port outside of the ephemeral range, as services have."""
    for port in range(20_000 + os.getpid() % 9_000, 30_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port below the ephemeral range")


def reachable(server: socket.socket) -> dict[str, list[Any]]:
    return {"connect": ["connect", server.getsockname()[1]], "listen": ["listen", 0]}


MARK = f"wall-test-{os.getpid()}"
"""Of this process: a supervisor ends everything on the host that carries its mark, also what another pytest started."""


def confined(folder: Path, command: list[str], confinement: Confinement) -> str:
    """The output of a command behind a shim."""
    spawner, log = Spawner(), os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), ATTEMPT_MARK: MARK}
    supervisor = Supervisor(
        spawner, attempt=MARK, command=command, folder=folder, env=env, log=log,
        kill_seconds=1.0, deadline=1e18, confinement=confinement,
    )  # fmt: skip
    os.close(log)
    assert eventually(lambda: supervisor.wait(0.05), what="the end")
    spawner.close()
    assert not marked(ATTEMPT_MARK, MARK)
    return (folder / "log").read_text()


def test_a_trainer_that_cannot_be_confined_is_not_started(tmp_path: Path) -> None:
    confinement = Confinement(paths={"run": ("/",)}, limits={"NO_SUCH_LIMIT": 1}, uid=-5, gid=-5)
    text = confined(tmp_path, [sys.executable, "-c", "print('it ran')"], confinement)
    assert "cannot be confined" in text and "it ran" not in text


def test_without_a_wall_a_sentence_says_so(tmp_path: Path) -> None:
    wall = wall_here(settings_in(tmp_path, ANNEAL_TRAINER_WALL="off"), os.environ)
    assert wall.kind == "none" and "Trainers can read the worker's files" in wall.why


def test_a_wall_that_was_asked_for_and_does_not_work_stops_the_worker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no such user|needs a worker that is root"):
        wall_here(settings_in(tmp_path, ANNEAL_TRAINER_USER="nobody-of-this-name"), os.environ)


@needs_landlock
def test_a_state_folder_among_the_libraries_is_noticed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, ANNEAL_TRAINER_WALL="landlock", ANNEAL_TRAINER_READS=str(tmp_path))
    with pytest.raises(ValueError, match="worker-id can be read"):
        wall_here(settings, os.environ)


def settings_in(folder: Path, **more: str) -> Any:
    (folder / "worker-id").write_text("x")
    places = {"ANNEAL_API_URL": "http://x", "ANNEAL_WORKER_TOKEN": "t", "ANNEAL_STATE_DIR": str(folder)}
    return settings_read(places | more)


LIMITED = """
import os
for action in (lambda: open("big", "wb").truncate(2 << 20), lambda: bytes(256 << 20), lambda: os.dup2(1, 300)):
    try:
        action()
    except (OSError, MemoryError) as error:
        print(type(error).__name__, flush=True)
"""


def test_file_size_memory_and_open_files_have_limits(tmp_path: Path) -> None:
    limits = {"FSIZE": 1 << 20, "DATA": 128 << 20, "NOFILE": 256}
    text = confined(tmp_path, [sys.executable, "-S", "-c", LIMITED], Confinement(limits=limits))
    assert text.split() == ["OSError", "MemoryError", "OSError"]


PROC = """
for path in ("/proc/self/task/self/comm", "/proc/self/comm", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    try:
        open(path, "r+b", buffering=0).close()
        print(path, flush=True)
    except OSError:
        pass
"""


@needs_landlock
@pytest.mark.parametrize("uses_accelerator", [False, True])
def test_cuda_may_name_its_threads_and_nothing_else_of_proc_is_written(tmp_path: Path, uses_accelerator: bool) -> None:
    confinement = Confinement(paths={"run": ("/",)}, writes_proc=uses_accelerator)
    text = confined(tmp_path, [sys.executable, "-S", "-c", PROC], confinement)
    assert text.split() == (["/proc/self/comm"] if uses_accelerator else [])


RANKS = """
import datetime, os, torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=100))
total = torch.ones(1000)
dist.all_reduce(total)
queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
if dist.get_rank() == 0:
    print("sum", int(total[0]), flush=True)
dist.destroy_process_group()
"""


@needs_landlock
@pytest.mark.slow
def test_ranks_find_each_other_behind_the_wall(tmp_path: Path) -> None:
    state, work = tmp_path / "state", tmp_path / "work"
    state.mkdir()
    work.mkdir()
    (work / "rank.py").write_text(RANKS)
    wall = wall_here(settings_in(state, ANNEAL_TRAINER_WALL="landlock"), os.environ)
    confinement = wall.confinement(read=(), change=(work,), network="ranks", accelerators=False, project="p")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"]
    assert "sum 2" in confined(work, [sys.executable, *torchrun], confinement)


PEEK = """
import sys
for name in ("environ", "mem"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name, flush=True)
    except OSError:
        pass
"""


@needs_landlock
@pytest.mark.parametrize("behind_landlock", [False, True])
def test_landlock_alone_hides_a_process_of_the_same_user_and_rights(tmp_path: Path, behind_landlock: bool) -> None:
    """As where the worker is not root: no capability of the worker keeps the trainer out."""
    paths = {"run": ("/",)} if behind_landlock else None
    worker = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, preexec_fn=lambda: confine(Confinement())
    )
    text = confined(tmp_path, [sys.executable, "-S", "-c", PEEK, str(worker.pid)], Confinement(paths=paths))
    worker.communicate(b"\n", timeout=PATIENCE)
    assert text.split() == ([] if behind_landlock else ["environ", "mem"])
