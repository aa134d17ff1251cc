"""When a process of the platform is ready: it answers, or it is too late."""

import socket
import time
from collections.abc import Callable

import httpx

from cli.errors import CliError
from cli.platform.children import Child, ending, log_tail

START_SECONDS = 60


def wait_until(ready: Callable[[], bool], child: Child, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if not child.alive:
            raise CliError(
                f"{child.name} {ending(child)} before it was ready; the end of {child.log}:", log_tail(child.log)
            )
        if time.monotonic() > deadline:
            raise CliError(
                f"{child.name} was not ready after {seconds:g} s; the end of {child.log}:", log_tail(child.log)
            )
        time.sleep(0.1)


def answers_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
