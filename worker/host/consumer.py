"""Keeps the Celery consumer alive as a child of the host."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from foundation.retry import backoff

log = structlog.get_logger()
OPTIONS = ["-c", "1", "--disable-prefetch", "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Consumer:
    """Starts it, and starts it again whenever it dies. Polling goes on meanwhile."""

    def __init__(self, *, broker_url: str, pools: tuple[str, ...], wake_socket: Path, backoff_seconds: float) -> None:
        queues = ",".join(f"pool.{pool}" for pool in pools)
        self._command = [
            *(sys.executable, "-m", "celery", "--quiet", "-A", "worker.host.app", "worker", *OPTIONS),
            *("-Q", queues, "-n", f"wake-{os.getpid()}@%h", "-l", "WARNING"),
        ]
        settings = {"BROKER_URL": broker_url, "WAKE_SOCKET": str(wake_socket), "HOST_PID": str(os.getpid())}
        self._env = {**_without_token(), **{f"ANNEAL_{name}": value for name, value in settings.items()}}
        self._backoff_seconds = backoff_seconds
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consumer")
        self._watching = self._thread.submit(self._keep_alive)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def close(self) -> None:
        """Ends it at once: it holds nothing that could be lost."""
        self._closing.set()
        if self._process:
            self._process.kill()
        self._watching.result()
        self._thread.shutdown()

    def _keep_alive(self) -> None:
        for seconds in backoff(self._backoff_seconds):
            # its own session, so that the terminal's Ctrl-C reaches the host alone
            self._process = subprocess.Popen(self._command, env=self._env, start_new_session=True)
            if self._closing.is_set():
                self._process.kill()
            code = self._process.wait()
            if self._closing.is_set():
                return
            log.warning("consumer_died", exit_code=code)
            if self._closing.wait(seconds):
                return


def _without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "ANNEAL_WORKER_TOKEN"}
