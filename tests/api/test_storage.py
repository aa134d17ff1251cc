"""Many files of one call are asked for at the storage at once, a bounded number at a time, outside of transactions."""

import threading
from typing import Any

import pytest
from rest_framework.test import APIClient

from api.storage import MAX_THREADS, in_parallel, storage
from storage import Stat
from tests.api.host import Agent, Host
from tests.api.jobs.test_claim import submit
from tests.api.world import World, file_entry

FILES = 100


class Meeting:
    """A storage call that answers once `count` of them are there at the same time, as a slow one would."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=20)
        self._lock = threading.Lock()
        self.now = self.most = self.calls = 0

    def __call__(self, act: Any) -> Any:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
            meets = self.calls <= self._barrier.parties
        try:
            if meets:
                self._barrier.wait()
            return act()
        finally:
            with self._lock:
                self.now -= 1


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    return host.claim()


@pytest.mark.django_db
def test_links_for_many_files_ask_the_storage_at_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, 100 files at 120 ms took longer than a worker waits."""
    meeting, stat = Meeting(MAX_THREADS), storage().stat

    def slow(key: str) -> Stat:
        result: Stat = meeting(lambda: stat(key))
        return result

    monkeypatch.setattr(storage(), "stat", slow)
    files = [file_entry(f"samples/{number}.png", b"x") for number in range(FILES)]
    answer = agent.post("uploads", {"files": files})
    assert [file["path"] for file in answer.json()["files"]] == [file["path"] for file in files]
    assert (meeting.calls, meeting.most) == (FILES, MAX_THREADS)


@pytest.mark.django_db
def test_a_publication_of_many_files_looks_at_them_at_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [agent.store(f"samples/{number}.png", b"x") for number in range(20)]
    meeting, stat = Meeting(MAX_THREADS), storage().stat
    monkeypatch.setattr(storage(), "stat", lambda key: meeting(lambda: stat(key)))
    assert agent.post("artifacts", {"kind": "sample", "path": "samples", "files": files}).status_code == 200
    assert meeting.most == MAX_THREADS


@pytest.mark.django_db
def test_links_of_a_users_upload_are_made_at_once(
    world: World, user: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting, presign = Meeting(MAX_THREADS), storage().presign_put

    def slow(*arguments: Any, **options: Any) -> Any:
        return meeting(lambda: presign(*arguments, **options))

    monkeypatch.setattr(storage(), "presign_put", slow)
    files = [file_entry(f"{number}.txt", b"x") for number in range(20)]
    assert (
        user.post(f"/api/v1/datasets/{world.request['dataset']}/uploads", {"files": files}, format="json").status_code
        == 200
    )
    assert meeting.most == MAX_THREADS


def test_the_first_error_in_order_is_raised() -> None:
    def act(number: int) -> int:
        if number > 3:
            raise ValueError(f"number {number}")
        return number

    with pytest.raises(ValueError, match="number 4"):
        in_parallel(act, list(range(50)))
    assert in_parallel(act, list(range(4))) == [0, 1, 2, 3]
