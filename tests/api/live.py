"""The API behind a real server, in a thread of the test's own process: it sees the test's database."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.asgi import application
from tests.patience import PATIENCE_SECONDS


@contextmanager
def serving() -> Iterator[str]:
    """The server's address; the test needs `django_db(transaction=True)`."""
    running = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run)
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=PATIENCE_SECONDS)
