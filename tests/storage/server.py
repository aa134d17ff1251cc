"""A real HTTP server around an ASGI application, on a free port, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.patience import PATIENCE_SECONDS


@contextmanager
def serving(make_app: Any) -> Iterator[str]:
    """Serves `make_app(base_url)` and gives the base URL. The socket listens before the thread starts: nobody waits."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_app(base), log_level="error", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield base
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listener.close()
