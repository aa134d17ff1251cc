"""The host process: identity, claims, slots, drain, and what a new boot does about an old one."""

import json
import re
import signal
import urllib.request

import pytest

from tests.worker.conftest import StartHost, eventually, finished, running
from tests.worker.fake_api import FakeApi


def test_a_claim_whose_answer_was_lost_gives_the_same_attempt(api: FakeApi, start_host: StartHost) -> None:
    api.lose_claim_answers = 2
    api.add_job()
    host = start_host()
    assert finished(api).finish["outcome"] == "succeeded"
    assert api.claims >= 3 and len(host.stamped("start")) == 1


def test_a_claim_that_was_lost_is_replayed_by_the_next_boot(api: FakeApi, start_host: StartHost) -> None:
    api.lose_claim_answers = 10_000
    api.add_job()
    host = start_host()
    eventually(lambda: api.attempts)
    host.kill()
    api.lose_claim_answers = 0
    host.start()
    assert finished(api).finish["outcome"] == "succeeded"
    assert len(host.stamped("start")) == 1


def test_one_folder_is_never_shared_by_two_hosts(api: FakeApi, start_host: StartHost) -> None:
    first = start_host()
    eventually(lambda: api.hellos)
    second = start_host(ANNEAL_STATE_DIR=str(first.folder / "state"))
    assert second.wait() == 2
    assert "another worker runs with ANNEAL_STATE_DIR" in second.log.read_text()


@pytest.mark.slow
def test_hello_is_repeated_while_the_identity_is_taken(api: FakeApi, start_host: StartHost) -> None:
    api.identity_taken = 3
    api.add_job()
    start_host()
    assert finished(api).finish["outcome"] == "succeeded"


def test_a_wrong_token_ends_with_one_sentence(start_host: StartHost) -> None:
    host = start_host(ANNEAL_WORKER_TOKEN="anw_wrong")
    assert host.wait() == 2
    assert "check ANNEAL_WORKER_TOKEN" in host.log.read_text()


def test_settings_that_are_wrong_are_all_named(start_host: StartHost) -> None:
    host = start_host(ANNEAL_SLOTS="none", ANNEAL_POLL_SECONDS="0")
    assert host.wait() == 2
    assert "ANNEAL_SLOTS" in host.log.read_text()


def test_a_worker_that_the_api_forgot_says_hello_again(api: FakeApi, start_host: StartHost) -> None:
    start_host()
    eventually(lambda: api.worker_heartbeats)
    api.forget_worker = True
    eventually(lambda: len(api.hellos) == 2)
    api.add_job()
    assert finished(api).finish["outcome"] == "succeeded"


@pytest.mark.slow
def test_slots_run_side_by_side_and_no_more_than_there_are(api: FakeApi, start_host: StartHost) -> None:
    for name in ("one", "two", "three"):
        api.add_job(name, steps=10_000)
    host = start_host(ANNEAL_SLOTS="2")
    eventually(lambda: len(host.stamped("start")) == 2)
    claims = api.claims
    eventually(lambda: all(attempt.heartbeats > 3 for attempt in api.attempts.values()))
    assert api.claims == claims and len(api.queue) == 1
    next(iter(api.attempts.values())).stop = "cancel"
    eventually(lambda: len(host.stamped("start")) == 3)


def test_torn_files_and_claims_of_an_unknown_shape_do_not_end_the_host(api: FakeApi, start_host: StartHost) -> None:
    api.add_job("odd")
    api.queue[0]["spec"] = "of another shape"
    api.add_job("good")
    host = start_host(ANNEAL_BROKER_URL="")
    finishes = host.folder / "state" / "finishes"
    eventually(lambda: len(api.attempts) == 2 and all(attempt.finish for attempt in api.attempts.values()))
    odd, good = api.attempts.values()
    assert odd.finish["outcome"] == "lost" and "does not understand the claim" in odd.finish["reason"]["message"]
    assert good.finish["outcome"] == "succeeded"
    (finishes / "torn-attempt.json").write_text('{"token": "ana_')
    eventually(lambda: (finishes / "torn" / "torn-attempt.json").exists())
    api.add_job("after")
    eventually(lambda: [attempt.finish.get("outcome") for attempt in api.attempts.values()][2:] == ["succeeded"])


def test_sigterm_drains_with_checkpoint_and_says_goodbye(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000)
    host = start_host()
    attempt = running(api)
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert attempt.finish["outcome"] == "drained" and attempt.finish["reason"]["code"] == "drained"
    assert [result["kind"] for result in attempt.artifacts] == ["checkpoint"]
    assert api.goodbyes == 1 and not host.tree()


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_deaf_trainer(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(mode="deaf", steps=10_000)
    host = start_host()
    attempt = running(api)
    host.signal(signal.SIGTERM)
    eventually(lambda: (host.folder / "state" / "attempts" / attempt.id / "in" / "control").exists())
    host.signal(signal.SIGINT)
    assert host.wait() == 0
    assert attempt.finish["outcome"] == "drained" and not host.tree()


def test_a_drained_worker_takes_nothing_until_it_is_wanted_again(api: FakeApi, start_host: StartHost) -> None:
    api.draining = True
    start_host()
    eventually(lambda: api.worker_heartbeats >= 2)
    api.add_job()
    beats = api.worker_heartbeats
    eventually(lambda: api.worker_heartbeats >= beats + 2)
    assert not api.attempts
    api.draining = False
    assert finished(api).finish["outcome"] == "succeeded"


def test_kill_9_of_the_host_leaves_nothing_and_the_next_boot_names_what_is_gone(
    api: FakeApi, start_host: StartHost
) -> None:
    api.add_job(mode="grandchildren")
    host = start_host()
    attempt = running(api)
    eventually(lambda: len(host.tree()) >= 4)
    host.kill()
    eventually(lambda: not host.tree(), what="the whole tree is gone")
    host.start()
    eventually(lambda: len(api.hellos) == 2)
    assert api.hellos[1]["gone"] == [attempt.id]
    assert api.hellos[0]["worker"] == api.hellos[1]["worker"] and api.hellos[0]["boot_id"] != api.hellos[1]["boot_id"]
    eventually(lambda: not list((host.folder / "state" / "attempts").iterdir()))


def test_a_finish_on_disk_is_delivered_by_the_next_boot(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=2)
    host = start_host()
    eventually(lambda: len(host.stamped("end")) == 1)
    host.kill()
    eventually(lambda: not host.tree())
    attempt = api.only()
    body = {"outcome": "failed", "exit_code": 1, "reason": None, "manifest": None, "files": [], "last_step": 2}
    stored = host.folder / "state" / "finishes" / f"{attempt.id}.json"
    attempt.finish = {}
    stored.write_text(json.dumps({"token": attempt.token, "body": body}))
    host.start()
    eventually(lambda: attempt.finish == body and not stored.exists())
    eventually(lambda: len(api.hellos) == 2)
    assert attempt.id not in api.hellos[1]["gone"]


def test_metrics_tell_slots_and_attempts(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000)
    host = start_host(ANNEAL_METRICS_PORT="0")
    running(api)
    served = next(line for line in host.log.read_text().splitlines() if "metrics_served" in line)
    address = f"http://127.0.0.1:{json.loads(served)['port']}/metrics"
    text = eventually(lambda: result if "training_loss{" in (result := scraped(address)) else None)
    assert "anneal_worker_slots 1.0" in text and "anneal_worker_live_attempts 1.0" in text
    assert "anneal_worker_heartbeat_age_seconds" in text
    assert 'anneal_worker_cache_inputs_total{result="fetched"}' in text
    assert re.search(r'^anneal_worker_training_step\{slot="0"\} [1-9]', text, re.MULTILINE)


def scraped(address: str) -> str:
    with urllib.request.urlopen(address) as answer:
        return str(answer.read().decode())


def test_a_worker_short_of_disk_claims_nothing_and_offers_no_slot(api: FakeApi, start_host: StartHost) -> None:
    api.add_job()
    host = start_host(ANNEAL_MIN_FREE_BYTES=str(1 << 60))
    eventually(lambda: api.worker_heartbeats >= 3)
    assert api.claims == 0
    assert "no_room" in host.log.read_text()


def test_a_checkpoint_with_other_bytes_is_reported_as_damaged(api: FakeApi, start_host: StartHost) -> None:
    checkpoint = api.add_input({"state.json": b"what was published"}, prefix="kept")
    api.files["data/state.json"] = api.files["kept/state.json"] = b"something else.!!!"
    api.add_job(inputs={"checkpoint": checkpoint})
    start_host()
    assert finished(api).finish["reason"]["code"] == "checkpoint_damaged"
