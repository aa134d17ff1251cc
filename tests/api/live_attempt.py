"""A claimed attempt of a job behind a real server, and the worker's own classes that speak for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from foundation.boottime import boottime
from tests.api.host import Agent, Host
from tests.api.served import served
from tests.faults.proxy import Proxy
from worker.attempt.control import ControlFile
from worker.attempt.event_sender import EventSender
from worker.attempt.outbox import Outbox, RefusedResults, resend_with
from worker.attempt.output import LogSpool, Masker
from worker.client.api import Api
from worker.client.lease import Lease
from worker.settings import Settings


def answer_of(status: int, body: str, content_type: str = "text/html") -> bytes:
    """What a gateway says in the API's place."""
    head = f"HTTP/1.1 {status} Gateway\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


@dataclass
class Live:
    """`proxy` stands between the worker and the API."""

    agent: Agent
    proxy: Proxy
    api: Api
    lease: Lease
    folder: Path

    def __post_init__(self) -> None:
        settings = Settings(
            api_url=self.proxy.url,
            worker_token="anw_x",
            state_dir=self.folder,
            backoff_seconds=0.01,
            transfer_attempts=3,
        )
        self.attempts = self.folder / "attempts"
        self.out = self.attempts / self.agent.id / "out"
        self.out.mkdir(parents=True)
        self.refused = RefusedResults(self.folder / "refused", 1 << 30)
        self.storage = httpx.Client(event_hooks={"request": [self._to_the_server]})
        self.outbox = Outbox(
            self.folder / "finishes",
            self.api,
            attempts=self.attempts,
            refused=self.refused,
            resend=resend_with(self.api, self.storage, settings),
        )
        self.attempt_api = self.api.attempt(self.agent.id, self.token, self.lease)
        self.spool = LogSpool(self.folder / "log", Masker([]), 1 << 30)

    def _to_the_server(self, request: httpx.Request) -> None:
        """Links name the public address of the tests' settings."""
        request.url = request.url.copy_with(host="127.0.0.1", port=self.proxy.target)

    @property
    def token(self) -> str:
        token: str = self.agent.claim["attempt"]["token"]
        return token

    def sender(self) -> EventSender:
        return EventSender(self.attempt_api, ControlFile(self.folder / "control", 1), self.spool, 0.001)

    def put(self, body: dict[str, Any]) -> None:
        self.outbox.put(self.agent.id, self.token, body)

    def deliver(self) -> int:
        """Until nothing is left; the number of tries."""
        for tries in range(1, 20):
            if self.outbox.deliver(self.agent.id):
                return tries
        raise AssertionError("not delivered in 20 tries")


@contextmanager
def live(host: Host, folder: Path) -> Iterator[Live]:
    """The first queued job, claimed by `host` and started."""
    agent = host.claim()
    agent.start()
    with served() as url:
        proxy = Proxy(urlsplit(url).port or 0)
        api = Api(proxy.url, host.token)
        try:
            yield Live(agent, proxy, api, Lease(boottime(), 1000), folder)
        finally:
            api.close()
            proxy.close()


def pause(seconds: float) -> None:
    time.sleep(min(seconds, 0.01))
