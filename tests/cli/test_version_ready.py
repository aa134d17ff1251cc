import json

import pytest

from cli import uploads
from cli.config import Login
from cli.errors import CliError
from cli.http import Client
from cli.uploads import version_ready
from tests.cli.small_server import Answer, serving

WAITING = {"name": "big", "version": 2, "state": "checking"}


def answers(*states: dict[str, object]) -> list[dict[str, object]]:
    return [{**WAITING, **state} for state in states]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "POLL_SECONDS", 0.0)


def test_a_version_that_is_checked_is_waited_for() -> None:
    left = answers({"state": "checking"}, {"state": "ready", "num_files": 3})

    def handle(path: str, _: dict[str, str]) -> Answer:
        assert path == "/api/v1/datasets/big@2"
        return 200, {}, json.dumps(left.pop(0)).encode()

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        assert version_ready(client, "datasets", WAITING)["num_files"] == 3
    assert left == []


def test_a_refused_version_says_why() -> None:
    reason = {"message": "a.png: expected an image, got text", "hint": "Remove it."}
    refused = {**WAITING, "state": "refused", "reason": reason}
    with (
        serving(lambda *_: (200, {}, json.dumps(refused).encode())) as url,
        Client(Login(url, "ant_x")) as client,
        pytest.raises(CliError, match=r"big@2 was refused: a.png: expected an image") as raised,
    ):
        version_ready(client, "datasets", WAITING)
    assert raised.value.hint == "Remove it."


def test_a_version_without_a_state_is_ready() -> None:
    with Client(Login("http://127.0.0.1:9", "ant_x")) as client:
        assert version_ready(client, "models", {"name": "m", "version": 1}) == {"name": "m", "version": 1}
