"""The environment, read once: every mistake has its sentence."""

import pytest

from worker.settings import settings_read

PLACES = {"ANNEAL_API_URL": "http://127.0.0.1:8000/", "ANNEAL_WORKER_TOKEN": "anw_x", "ANNEAL_STATE_DIR": "/tmp/w"}


def test_places_are_needed_and_numbers_have_defaults() -> None:
    settings = settings_read(PLACES)
    assert settings.api_url == "http://127.0.0.1:8000" and settings.slots == 1 and settings.pools == ("default",)
    with pytest.raises(ValueError, match="ANNEAL_API_URL: Field required"):
        settings_read({})


def test_lists_are_split() -> None:
    arguments = {
        "ANNEAL_POOLS": "a, b",
        "ANNEAL_LABELS": "zone=x,owner=lab",
        "ANNEAL_TRAINER_COMMAND": "py 'my stub.py'",
    }
    settings = settings_read(PLACES | arguments)
    assert settings.pools == ("a", "b") and settings.labels == {"zone": "x", "owner": "lab"}
    assert settings.trainer_command == ("py", "my stub.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ANNEAL_POLL_SECONDS": "0"}, "needs ANNEAL_BROKER_URL"),
        ({"ANNEAL_LABELS": "fast"}, "ANNEAL_LABELS: expected name=value"),
        ({"ANNEAL_ACCELERATORS": "first"}, "ANNEAL_ACCELERATORS"),
        ({"ANNEAL_SLOTS": "0"}, "ANNEAL_SLOTS"),
        ({"ANNEAL_API_URL": "localhost"}, "ANNEAL_API_URL"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_read(PLACES | arguments)


def test_a_token_is_not_shown() -> None:
    assert "anw_x" not in repr(settings_read(PLACES))
