"""A prepared process, seen from the host: trainers are forked from it, so that none has to import torch again.

One for the host, started in the background. A job is forked from it only where that makes no difference to the job:
see `Prepared.shim`. Whatever goes wrong with it, jobs start anew as if there were none.
"""

import hashlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from worker.process.forked import Forker, ForkError, RefusedForkError
from worker.process.supervise import ShimProcess, Spawner
from worker.settings import Settings

MODULES = ("trainers.prepared",)
PREPARE_SECONDS = 180.0
"""Longest time that a prepared process may take to import everything."""
OF_THE_JOB = frozenset(
    (
        "ANNEAL_ATTEMPT", "ANNEAL_RESIDENT", "ANNEAL_WORKER_ID", "CUDA_VISIBLE_DEVICES",
        "HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME",
        "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH",
    )
)  # fmt: skip
"""Variables that no library reads for good when it is imported, or only jobs that connect need; set in each child."""
log = structlog.get_logger()


def prepared_problem(settings: Settings) -> str:
    """Why trainers cannot be forked on this host; "" where they can."""
    if settings.trainer_command:
        return "ANNEAL_TRAINER_COMMAND says how trainers start"
    if settings.trainer_python != sys.executable:
        return (
            f"ANNEAL_TRAINER_PYTHON={settings.trainer_python} is another interpreter than the worker's {sys.executable}"
        )
    return ""


class Prepared:
    """Where shims come from, forked or new. `env`: a job's environment, without what is the job's alone."""

    def __init__(
        self, spawner: Spawner, *, folder: Path, env: Mapping[str, str], modules: Sequence[str] = MODULES
    ) -> None:
        self._spawner = spawner
        self._folder = folder
        self._modules = modules
        self._env = {name: value for name, value in env.items() if name != "CUDA_VISIBLE_DEVICES"}
        self._forker: Forker | None = None
        self._failed = ""
        """The digest with which no process could be prepared: not tried again before something else is installed."""
        self._lock = threading.Lock()

    def is_preparing(self) -> bool:
        """Whether it is worth waiting for a prepared process; starts one where there is none for what is installed."""
        with self._lock:
            digest = installed_digest()
            if self._forker and self._forker.digest != digest:
                self._end("what is installed has changed")
            if self._forker and self._forker.has_died and self._forker.is_ready:
                self._end("it has died")
            if self._forker is None and self._failed != digest:
                self._forker = Forker(self._spawner, self._folder, self._env, self._modules, digest)
            if self._forker is None or self._forker.is_ready:
                return False
            if self._forker.has_died or self._forker.age_seconds > PREPARE_SECONDS:
                self._give_up("it could not be prepared")
                return False
            return True

    def shim(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> ShimProcess:
        """Forked where a prepared process is ready and its environment is that of the job; else a new program."""
        with self._lock:
            if self._forker and self._forker.is_ready and _of_all_jobs(env) == _of_all_jobs(self._env):
                try:
                    return self._forker.fork(arguments, env, log)
                except RefusedForkError as error:
                    self._give_up(str(error))
                except ForkError as error:
                    self._end(str(error))
        return self._spawner.shim(arguments, env, log)

    def close(self) -> None:
        with self._lock:
            if self._forker:
                self._forker.close()
                self._forker = None

    def _end(self, why: str) -> None:
        assert self._forker is not None
        self._forker.close()
        log.info("prepared_process_ended", why=why)
        self._forker = None

    def _give_up(self, why: str) -> None:
        assert self._forker is not None
        self._failed = self._forker.digest
        self._forker.close()
        log.error("no_prepared_process", why=why, output=self._forker.output(), hint="Each trainer starts anew.")
        self._forker = None


def _of_all_jobs(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in OF_THE_JOB}


OURS = ("foundation", "formats", "trainers", "worker")


def installed_digest() -> str:
    """Changes with each installation, update or removal of a package, and with each change of a file of ours."""
    digest = hashlib.sha256()
    for line in (*_packages(), *_own_files()):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _packages() -> Iterator[str]:
    """Each installed package has a folder with its version in its name, written anew when it is installed again."""
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages") and folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix in (".dist-info", ".egg-info", ".pth"):
                    yield f"{path} {path.stat().st_mtime_ns}"


def _own_files() -> Iterator[str]:
    for name in OURS:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(place).rglob("*.py")):
                status = path.stat()
                yield f"{path} {status.st_size} {status.st_mtime_ns}"
