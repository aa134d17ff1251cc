"""What the embedded platform stands on: chosen once, kept in its folder; the real PostgreSQL and S3 servers."""

import json
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cli.errors import CliError
from cli.platform import seaweed
from cli.platform.children import child_stop
from cli.platform.home import Kinds, RequestedKinds, home_open, kinds_resolve, secret_key
from cli.platform.postgres import postgres_start
from cli.platform.seaweed import GRPC_ABOVE, answers_s3, seaweed_keys, seaweed_ports, seaweed_start


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where another user may pass through, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="anneal-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_choice_of_the_first_start_stays(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    assert kinds_resolve(home, RequestedKinds("postgres", "s3")) == Kinds("postgres", "s3")
    assert kinds_resolve(home, RequestedKinds()) == Kinds("postgres", "s3")
    assert kinds_resolve(home, RequestedKinds(storage="s3")) == Kinds("postgres", "s3")


def test_nothing_asked_is_sqlite_and_a_folder(tmp_path: Path) -> None:
    assert kinds_resolve(home_open(tmp_path), RequestedKinds()) == Kinds("sqlite", "folder")


@pytest.mark.parametrize("requests", [RequestedKinds(database="postgres"), RequestedKinds(storage="s3")])
def test_another_choice_for_a_folder_that_holds_something_is_refused(tmp_path: Path, requests: RequestedKinds) -> None:
    home = home_open(tmp_path)
    secret_key(home)  # as a start before there was a choice left it
    with pytest.raises(CliError, match="was made with"):
        kinds_resolve(home, requests)
    assert kinds_resolve(home, RequestedKinds()) == Kinds()


def test_postgresql_keeps_its_data_and_password_over_a_kill(open_folder: Path) -> None:
    home = home_open(open_folder / "home")
    child, url = postgres_start(home, port := free_port())
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'Ünïcode' AS text")
    assert child.process is not None
    os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()
    child, again = postgres_start(home, port)
    try:
        assert again == url
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT upper(text) FROM kept").fetchone() == ("ÜNÏCODE",)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace("anneal:", "anneal:x"))
    finally:
        child_stop(child)
    assert stat.S_IMODE((home.root / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((home.root / "database_password").stat().st_mode) == 0o600


def test_seaweedfs_comes_back_on_its_ports_with_its_keys(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    child, reported = seaweed_start(home)
    assert child.process is not None
    os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()
    child, again = seaweed_start(home)
    try:
        assert again == reported
        assert reported["ANNEAL_S3_SECRET_KEY"] == seaweed_keys(home).secret
        assert answers_s3(int(reported["ANNEAL_S3_ENDPOINT"].rpartition(":")[2]))
    finally:
        child_stop(child)


@pytest.mark.slow
def test_seaweedfs_comes_back_where_its_ports_serve_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SeaweedFS finds taken, and we do not: on every address but ours."""
    home, ports = home_open(tmp_path), seaweed_ports({})
    (home.root / "s3_ports.json").write_text(json.dumps(ports))
    monkeypatch.setattr(seaweed, "port_free", lambda _: True)
    with socket.create_server(("127.0.0.1", ports["s3"])):
        child, variables = seaweed_start(home)
    try:
        port = int(variables["ANNEAL_S3_ENDPOINT"].rpartition(":")[2])
        assert port != ports["s3"]
        assert answers_s3(port)
    finally:
        child_stop(child)


def test_a_port_of_seaweedfs_leaves_room_for_the_one_above() -> None:
    ports = seaweed_ports({})
    assert len(set(ports.values())) == len(ports)
    assert all(port + GRPC_ABOVE < 2**16 for port in ports.values())


def free_port() -> int:
    return seaweed_ports({})["s3"]
