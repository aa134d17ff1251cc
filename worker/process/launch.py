"""What a trainer is started with, whatever executor starts it: places, command, environment."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from trainers.contract.spec import Resources
from worker.process.supervise import Exit
from worker.sandbox.confine import Network
from worker.settings import Settings
from worker.transfer.files import remove_tree

ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|XDG_CACHE_HOME"
    r"|(OMP|MKL|OPENBLAS)_NUM_THREADS"
    r"|HF_(HOME|HUB_CACHE|HUB_OFFLINE|HUB_(DOWNLOAD|ETAG)_TIMEOUT|ENDPOINT|DATASETS_CACHE)|TRANSFORMERS_OFFLINE|TORCH_HOME"
    r"|WANDB_(PROJECT|ENTITY|MODE|BASE_URL)"
    r"|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|CUDA_(HOME|PATH|LAUNCH_BLOCKING|CACHE_PATH)|(NCCL|GLOO|NVIDIA|PYTORCH|TORCH|TRITON)_[A-Z0-9_]+",
)
PROXIES = re.compile(r"(https?|all)_proxy", re.IGNORECASE)


@dataclass(frozen=True)
class Places:
    """Where the files of one attempt lie that its trainer sees."""

    spec: Path
    inputs: Path
    out: Path
    tmp: Path

    def remove(self) -> None:
        for folder in (self.inputs, self.out, self.tmp):
            remove_tree(folder)
        self.spec.unlink(missing_ok=True)


@dataclass(frozen=True)
class Room:
    """What a resident may reach: the places of the attempts that may follow one another in it, and of no others."""

    folder: Path

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    def places(self, attempt: str) -> Places:
        return Places(
            self.inputs / f"{attempt}.json", self.inputs / attempt, self.out / attempt, self.tmp / f"own-{attempt}"
        )


def places_in(folder: Path) -> Places:
    """Of an attempt with a trainer of its own."""
    return Places(folder / "spec.json", folder / "in", folder / "out", folder / "tmp")


def room_in(residents: Path, reuse_key: str, accelerators: tuple[int, ...]) -> Room:
    """The room of all attempts with this key; `residents` is emptied when a host starts."""
    name = hashlib.sha256(json.dumps([reuse_key, accelerators]).encode()).hexdigest()[:16]
    return Room(residents / "rooms" / name)


@dataclass(frozen=True)
class Launch:
    attempt: str
    folder: Path
    """The attempt's, which the trainer starts in."""
    places: Places
    project: str
    resources: Resources
    accelerators: tuple[int, ...]
    kill_seconds: float
    deadline: float
    """End of the lease on CLOCK_BOOTTIME; the executor itself ends the trainer then."""
    network: Network = "none"
    """What the trainer may connect to."""
    reuse_key: str = ""
    """What the trainer may keep in memory for the next attempt of the same, as a key; "" = nothing."""
    can_be_forked: bool = False
    """Whether a prepared process may serve it; see worker/process/prepared.py."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For the trainer's environment."""


class Running(Protocol):
    def extend(self, deadline: float) -> None: ...

    def terminate(self) -> None:
        """SIGTERM, and after kill_seconds SIGKILL to all that is left."""

    def kill(self) -> None: ...

    def kill_shim(self) -> None: ...

    def wait(self, timeout_seconds: float) -> Exit | None:
        """The end, once nothing of the trainer is left."""


class Executor(Protocol):
    def start(self, launch: Launch, log: int) -> Running:
        """Starts the trainer with its output going to the descriptor `log`."""

    def is_preparing(self) -> bool:
        """Whether a trainer that can be forked had better wait for the prepared process."""


def trainer_command(settings: Settings, launch: Launch, cache: Path) -> list[str]:
    """One process runs without torchrun; several are its ranks."""
    places = launch.places
    folders = [str(path) for path in (places.spec, places.inputs, places.out, cache)]
    if settings.trainer_command or launch.resources.strategy == "single":
        return [*_single(settings), *folders]
    processes = len(launch.accelerators) or launch.resources.num_processes
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [settings.trainer_python, *torchrun, "-m", "trainers.run", *folders]


def serving_command(settings: Settings, cache: Path) -> list[str]:
    """A trainer that takes jobs from its standard input."""
    return [*_single(settings), "--serve", str(cache)]


def _single(settings: Settings) -> list[str]:
    return list(settings.trainer_command) or [settings.trainer_python, "-m", "trainers.run"]


def trainer_environment(
    environ: Mapping[str, str], *, marks: Mapping[str, str], accelerators: Sequence[int], extra: Iterable[str] = ()
) -> dict[str, str]:
    """What a trainer may see of `environ`, so that no token of ours is in it; its marks; exactly its accelerators."""
    names = set(extra)
    allowed = {name: value for name, value in environ.items() if ALLOWED.fullmatch(name.upper()) or name in names}
    return {
        **allowed,
        **marks,
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order that nvidia-smi counts in
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in accelerators),
    }


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """Passwords that the allow-list lets through, for the mask of the log: those inside proxy addresses."""
    passwords = [urlsplit(value).password for name, value in environ.items() if PROXIES.fullmatch(name)]
    return [password for password in passwords if password]
