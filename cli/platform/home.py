"""The folder of one embedded platform: what lies where, who may use it, which ports and secrets it has."""

import base64
import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cli.config import PRIVATE
from cli.errors import CliError
from foundation.atomic import text_write

SERVICES = ("api", "broker", "database")
LOWEST_PORT = 11_000
LOWEST_EPHEMERAL = 22_000
"""Below this there would be no room for ports in pairs."""
EPHEMERAL_PORT = 32_768
"""Linux's own choice."""


@dataclass(frozen=True)
class Home:
    root: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.root / 'anneal.sqlite3'}"

    @property
    def storage_url(self) -> str:
        return f"file://{self.root / 'files'}"

    @property
    def worker_state(self) -> Path:
        return self.root / "host"

    @property
    def copy_mark(self) -> Path:
        """Written by a backup (docs/operating.md), removed by the first start of the copy."""
        return self.root / "is_a_copy"

    @property
    def broker_data(self) -> Path:
        return self.root / "valkey"


def home_open(root: Path) -> Home:
    home = Home(root.resolve())
    for folder in (home.root, home.logs, home.worker_state, home.broker_data, home.root / "files"):
        folder.mkdir(parents=True, exist_ok=True)
    home.root.chmod(0o700)
    return home


@contextmanager
def home_locked(home: Home) -> Iterator[None]:
    """Holds the folder for this process. Raises CliError where another `anneal up` has it."""
    with (home.root / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CliError(
                f"another `anneal up` (process {file.read().strip() or '?'}) already runs in {home.root}",
                "Use that one, stop it, or choose another folder with --dir.",
                code="already_up",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def home_ports(home: Home, taken: Collection[int] = ()) -> dict[str, int]:
    """A port for each service: the one of the last start where it is still free, else a new one, remembered.

    `taken`: ports of others, which may not listen yet.
    """
    saved = json_read(home.root / "ports.json")
    ports: dict[str, int] = {}
    for service in SERVICES:
        port, others = saved.get(service), {*taken, *ports.values()}
        ports[service] = port if port and port not in others and port_free(port) else port_new(others)
    text_write(home.root / "ports.json", json.dumps(ports))
    return ports


def port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_new(taken: Collection[int], above: int = 0) -> int:
    """A free port, with the one `above` it free too, both below those that the kernel gives to outgoing connections:
    one of those may be taken again between our look and the start of a server, and at every restart."""
    spans = (0, above) if above else (0,)
    candidates = list(range(LOWEST_PORT, _ephemeral_low() - above))
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if all(port + span not in taken and port_free(port + span) for span in spans):
            return port
    raise CliError(
        f"no port from {LOWEST_PORT} to {_ephemeral_low() - 1} of 127.0.0.1 is free",
        "End what listens there, or raise the first number in net.ipv4.ip_local_port_range.",
    )


def _ephemeral_low() -> int:
    """The first port that outgoing connections may get. At least leaves room for a pair of SeaweedFS's ports."""
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    low = int(path.read_text().split()[0]) if path.exists() else EPHEMERAL_PORT
    return low if low > LOWEST_EPHEMERAL else EPHEMERAL_PORT


def secret_key(home: Home) -> str:
    """The key that signs links and sessions, made at the first start."""
    path = home.root / "secret_key"
    if not path.exists():
        text_write(path, secrets.token_urlsafe(48), mode=PRIVATE)
    return path.read_text(encoding="utf-8")


def secrets_key(home: Home) -> str:
    """The Fernet key that encrypts project secrets, made at the first start."""
    path = home.root / "secrets_key"
    if not path.exists():
        text_write(path, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(), mode=PRIVATE)
    return path.read_text(encoding="utf-8")


def json_read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


Database = Literal["sqlite", "postgres"]
Storage = Literal["folder", "s3"]


@dataclass(frozen=True)
class Kinds:
    database: Database = "sqlite"
    storage: Storage = "folder"


@dataclass(frozen=True)
class RequestedKinds:
    """What the command line says; None: nothing."""

    database: Database | None = None
    storage: Storage | None = None


NOTHING_REQUESTED = RequestedKinds()
NOTHING_CHOSEN = Kinds()


def kinds_resolve(home: Home, requested: RequestedKinds) -> Kinds:
    """Those of the folder. Raises CliError where others are asked for: what it holds would seem to be gone."""
    path, kinds = home.root / "platform.json", NOTHING_CHOSEN
    if path.exists():
        kinds = Kinds(**json_read(path))
    elif not (home.root / "secret_key").exists():  # else it was made before there was a choice
        kinds = Kinds(requested.database or kinds.database, requested.storage or kinds.storage)
    for name, value in asdict(requested).items():
        if value not in (None, current := getattr(kinds, name)):
            raise CliError(
                f"{home.root} was made with {current} as its {name}, not {value}",
                "Start it without that option, or choose another folder with --dir.",
            )
    text_write(path, json.dumps(asdict(kinds)))
    return kinds
