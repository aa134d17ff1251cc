"""Ports for servers of tests."""

import socket


def free_port() -> int:
    """One that nobody listens on, picked by the kernel: two processes that ask at once get two."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
