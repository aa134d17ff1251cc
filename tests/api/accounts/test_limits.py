"""Rate limits hold across processes and are not talked away by a header."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.accounts import limits
from api.accounts.models import RateCount
from api.environment import environment_read
from tests.api.actors import person
from tests.api.host import Host
from tests.api.test_settings import GOOD
from tests.api.world import Environ

pytestmark = pytest.mark.django_db


class Minutes:
    """The clock of the limits, which stands still unless it is moved."""

    now = 6000.0

    def time(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def minutes(monkeypatch: pytest.MonkeyPatch) -> Minutes:
    clock = Minutes()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def guess(name: str = "anna", **headers: str) -> Any:
    return APIClient().post("/api/v1/auth/login", {"username": name, "password": "no"}, format="json", **headers)


def codes(answers: list[Any]) -> list[int]:
    return [answer.status_code for answer in answers]


def test_one_account_is_tried_ten_times_a_minute_from_wherever(minutes: Minutes) -> None:
    answers = [guess(REMOTE_ADDR=f"192.0.2.{i}") for i in range(11)]
    assert codes(answers) == [401] * 10 + [429]
    assert answers[-1].headers["retry-after"] == "60"
    assert answers[-1].json()["code"] == "throttled"
    assert guess("ANNA").status_code == 429, "the database may not tell names apart by case"
    minutes.now += 59
    assert guess().status_code == 429
    minutes.now += 1
    assert guess().status_code == 401


def test_one_address_tries_thirty_names_a_minute_whatever_it_says_of_itself() -> None:
    answers = [guess(f"user{i}", HTTP_X_FORWARDED_FOR=f"198.51.100.{i}") for i in range(31)]
    assert codes(answers) == [401] * 30 + [429]
    assert guess("another", REMOTE_ADDR="192.0.2.7").status_code == 401


def test_a_body_that_is_no_login_counts_for_the_address() -> None:
    post = APIClient().post
    answers = [post("/api/v1/auth/login", [1], format="json") for _ in range(31)]
    assert codes(answers) == [400] * 30 + [429]


def test_old_counts_are_forgotten_and_names_are_not_stored(minutes: Minutes) -> None:
    guess("a password typed as the name")
    assert all(len(key) == 64 for key in RateCount.objects.values_list("key", flat=True))
    minutes.now += 60 * 10
    guess("bert")
    assert RateCount.objects.count() == 2


def test_writes_of_one_token_are_counted_and_reads_are_not(environ: Environ) -> None:
    environ(writes_per_minute=2)
    anna, bert = person(), person("other")
    created = [anna.post("/api/v1/datasets", {"name": f"d{i}"}, format="json") for i in range(3)]
    assert codes(created) == [201, 201, 429]
    assert codes([anna.get("/api/v1/datasets") for _ in range(4)]) == [200] * 4
    assert bert.post("/api/v1/datasets", {"name": "d"}, format="json").status_code == 201


def test_claims_of_one_worker_token_are_counted(environ: Environ, host: Host) -> None:
    environ(claims_per_minute=2)
    assert codes([host.claim_post() for _ in range(3)]) == [204, 204, 429]
    assert host.heartbeat().status_code == 200


def test_a_proxy_that_is_no_address_is_refused_at_start() -> None:
    with pytest.raises(Exception, match="ANNEAL_TRUSTED_PROXIES"):
        environment_read({**GOOD, "ANNEAL_TRUSTED_PROXIES": "proxy.example.org"})
