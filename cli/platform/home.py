"""The folder of one embedded platform: what lies where, who may use it, which ports and secrets it has."""

import base64
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.atomic import PRIVATE, text_write
from cli.errors import CliError

SERVICES = ("api", "broker", "database")


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


def home_ports(home: Home) -> dict[str, int]:
    """A port for each service: the one of the last start where it is still free, else a new one, remembered."""
    saved = json_read(home.root / "ports.json")
    ports: dict[str, int] = {}
    for service in SERVICES:
        port = saved.get(service)
        ports[service] = port if port and port_free(port) else port_new(set(ports.values()))
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


def port_new(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


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
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
