"""The API behind a real server, in this process, on the database of the test."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.asgi import application
from api.server.http_protocol import TimedProtocol


@contextmanager
def served(protocol: type[TimedProtocol] = TimedProtocol) -> Iterator[str]:
    """The server's address. It listens before it is started, so nobody has to wait for it."""
    listening = socket.create_server(("127.0.0.1", 0))
    options = uvicorn.Config(
        application, http=protocol, log_level="error", access_log=False, proxy_headers=False, lifespan="off"
    )
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
