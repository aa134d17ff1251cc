"""Secrets of a claim: in the trainer's environment, and nowhere else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.worker.conftest import HostProcess, eventually
from tests.worker.fake_api import Attempt, FakeApi
from worker.attempt.output import Masker
from worker.client.payloads import Claim

TOKEN = "plain-looking-token-of-a-hub"
ODD = 'pass"word\\with/odd+signs'
SECRETS = {"HF_TOKEN": TOKEN, "ANNEAL_SECRET_ODD": ODD}
StartHost = Callable[..., HostProcess]


def ended(api: FakeApi) -> Attempt:
    return eventually(lambda: api.attempts and api.only().finish and api.only())  # type: ignore[no-any-return]


def test_the_trainer_has_them_and_log_events_finish_and_disk_do_not(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(mode="tell_secrets", steps=1)
    api.queue[0]["secrets"] = SECRETS
    host = start_host()
    attempt = ended(api)
    reported = attempt.log.decode() + json.dumps(attempt.events) + json.dumps(attempt.finish) + host.log.read_text()
    digests = [hashlib.sha256(value.encode()).hexdigest() for value in SECRETS.values()]
    assert all(digest in attempt.log.decode() for digest in digests), "the trainer had them"
    assert attempt.log.decode().count("[masked]") >= 3
    for value in SECRETS.values():
        assert value not in reported and json.dumps(value)[1:-1] not in reported
    attempts = host.folder / "state" / "attempts"
    eventually(lambda: not list(attempts.iterdir()), what="what the trainer itself wrote is gone with its folder")
    assert not [path for path in files_of(host) if TOKEN.encode() in path.read_bytes()]


def files_of(host: HostProcess) -> list[Path]:
    return [path for path in host.folder.rglob("*") if path.is_file()]


def test_an_attempt_whose_secret_is_gone_fails_before_its_trainer_starts(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=1)
    api.queue[0]["missing_secrets"] = ["hub"]
    host = start_host()
    reason = ended(api).finish["reason"]
    assert reason["code"] == "bad_parameters" and "secret hub is missing" in reason["message"]
    assert not host.stamped("start")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "ANNEAL_SECRET_", "ANNEAL_SECRET_x", "HF_TOKEN\n", "HF_HOME"])
def test_nothing_but_a_secret_can_be_put_into_the_environment(name: str) -> None:
    attempt = {"id": "a", "n": 1, "fence": 1, "token": "t"}
    with pytest.raises(ValidationError):
        Claim.model_validate({"attempt": attempt, "job": {"id": "j"}, "spec": {}, "secrets": {name: "x"}})


def test_a_claim_does_not_show_its_secrets() -> None:
    attempt = {"id": "a", "n": 1, "fence": 1, "token": "t"}
    claim = Claim.model_validate({"attempt": attempt, "job": {"id": "j"}, "spec": {}, "secrets": SECRETS})
    assert TOKEN not in repr(claim) + str(claim)


def test_a_value_is_masked_in_the_forms_that_json_and_addresses_give_it() -> None:
    masker = Masker([ODD])
    quoted = "pass%22word%5Cwith%2Fodd%2Bsigns"
    line = masker.line(f"{ODD} {json.dumps(ODD)} https://x/?key={quoted}".encode())
    assert line == b'[masked] "[masked]" https://x/?key=[masked]'
    event = masker.event(json.dumps({"message": f"{ODD} {quoted}"}).encode())
    assert json.loads(event) == {"message": "[masked] [masked]"}


def test_a_value_that_looks_like_json_does_not_tear_an_event() -> None:
    line = json.dumps({"seq": 1, "data": {"kind": "warning"}}, separators=(",", ":")).encode()
    assert Masker(['"data":{"kind"']).event(line) == line
