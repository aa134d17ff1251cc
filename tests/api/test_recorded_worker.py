"""Workers of earlier releases against the API of today: their recorded requests get the answers that they rely on."""

import base64
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
from rest_framework.test import APIClient

from api.accounts.tokens import worker_token_create
from api.catalog.models import Adaptor
from tests.api.actors import HTTP
from tests.api.served import served
from tests.api.world import Environ, inputs_store

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("worker_*.json"))
RANDOM = {"id", "job", "token", "project", "url", "key", "artifact", "hint", "message"}
"""Keys whose values differ from one database to the next; what a worker sends back of them is translated."""


class Replay:
    """Sends a recording, with the ids, tokens and links of today's answers in the place of the recorded ones."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self._url = url
        self._translation = dict(tokens)

    def send(self, exchange: dict[str, Any]) -> None:
        content = {"content": self._body(exchange["request"])} if exchange["request"] else {}
        headers = {name: self._today(value) for name, value in exchange["headers"].items()}
        path = self._today(exchange["path"])
        answer = HTTP.request(exchange["method"], self._url + path, headers=headers, **content)
        where = f"{exchange['method']} {exchange['path']}"
        assert answer.status_code == exchange["status"], f"{where}: {answer.text}"
        if exchange["answer"] and "json" in exchange["answer"]:
            strict = "/internal/" in exchange["path"]
            self._compare(exchange["answer"]["json"], answer.json(), where, strict=strict)

    def _body(self, recorded: dict[str, Any]) -> bytes:
        if "base64" in recorded:
            return base64.b64decode(recorded["base64"])
        return self._today(json.dumps(recorded["json"])).encode()

    def _today(self, text: str) -> str:
        for recorded in sorted(self._translation, key=len, reverse=True):  # a link before the ids in it
            text = text.replace(recorded, self._translation[recorded])
        return text

    def _compare(self, recorded: Any, current: Any, where: str, *, strict: bool, key: str = "") -> None:
        """Every recorded field is there with its value; further fields are fine."""
        if isinstance(recorded, dict) and isinstance(current, dict):
            assert not strict or recorded.keys() <= current.keys(), f"{where}: {recorded.keys() - current.keys()} gone"
            for name in recorded.keys() & current.keys():
                exact = strict and name != "params"  # handed to the trainer unread; defaults may change
                self._compare(recorded[name], current[name], f"{where}.{name}", strict=exact, key=name)
        elif isinstance(recorded, list) and isinstance(current, list):
            assert not strict or len(recorded) == len(current), where
            for index, (old, new) in enumerate(zip(recorded, current, strict=False)):
                self._compare(old, new, f"{where}[{index}]", strict=strict, key=key)
        elif key in RANDOM:
            self._learn(recorded, current, key)
        else:
            assert not strict or recorded == current, where

    def _learn(self, recorded: Any, current: Any, key: str) -> None:
        if key == "url":
            old, new = urlsplit(recorded), urlsplit(current)
            recorded, current = f"{old.path}?{old.query}", f"{new.path}?{new.query}"
        if isinstance(recorded, str) and key in ("id", "token", "url"):
            self._translation[recorded] = current


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_worker_is_served_as_it_was(path: Path, user: APIClient, environ: Environ) -> None:
    recording = json.loads(path.read_text())
    environ(**recording["environ"])
    with TemporaryDirectory() as folder:
        inputs_store(Path(folder))
    user_token = user._credentials["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    tokens = {
        recording["tokens"]["worker"]: worker_token_create(name="replayed")[0],
        recording["tokens"]["user"]: user_token,
    }
    with served() as url:
        replay = Replay(url, tokens)
        for exchange in recording["exchanges"]:
            replay.send(exchange)
    jobs = user.get("/api/v1/jobs").json()["results"]
    assert [(job["name"], job["state"]) for job in jobs] == [("paused", "succeeded"), ("saved", "succeeded")]
    assert [attempt["outcome"] for attempt in jobs[0]["attempts"]] == ["stopped", "succeeded"]
    assert sorted(Adaptor.objects.values_list("name", "partial")) == [
        ("paused", False),
        ("paused", True),
        ("saved", False),
    ]
    loss = user.get(f"/api/v1/jobs/{jobs[0]['id']}/metrics?name=loss").json()["series"]["loss"]
    assert [step for step, _ in loss] == [1, 2, 3, 4, 5, 6]
    assert "[masked]" in user.get(f"/api/v1/jobs/{jobs[1]['id']}/log").content.decode()
