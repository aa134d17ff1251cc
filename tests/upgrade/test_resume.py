"""Today's API, dispatcher and worker go on with the jobs that 61dba2f left paused, running and claimed."""

from pathlib import Path
from typing import Any

import pytest

from cli.http import Client, Record
from cli.platform.services import dispatcher_child, worker_child, worker_env
from tests.faults.platform import eventually
from tests.patience import PATIENCE_SECONDS
from tests.upgrade.old_platform import KEYS, old_platform

SHORT_TIMES = {
    "ANNEAL_HEARTBEAT_SECONDS": "0.5",
    "ANNEAL_POLL_SECONDS": "0.5",
    "ANNEAL_DISPATCH_SECONDS": "0.5",
    "ANNEAL_REAP_GRACE_SECONDS": "0.5",
    "ANNEAL_ACCELERATORS": "none",
}


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_paused_and_lost_jobs_of_before_go_on_from_their_checkpoints(database: str, tmp_path: Path) -> None:
    with old_platform(tmp_path / "platform", database, **SHORT_TIMES) as platform:
        platform.migrate()
        token = KEYS[database]["worker_token"]
        env = worker_env(platform.home, port=platform.port, token=token, broker_url="") | SHORT_TIMES
        children = (dispatcher_child(platform.home, platform.env), worker_child(platform.home, env))
        with platform.running(*children), platform.client as client:
            paused, running, claimed = (platform.jobs[role] for role in ("paused", "running", "claimed"))
            check_paused_job_is_resumed_to_its_end(client, paused)
            check_lost_job_is_requeued_and_resumed(client, running)
            check_claimed_job_is_queued_again(client, claimed)


def check_paused_job_is_resumed_to_its_end(client: Client, job: str) -> None:
    checkpoint = last_checkpoint(client, job)
    client.post(f"jobs/{job}/resume")
    row = wait(client, job, "succeeded")
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["stopped", "succeeded"]
    assert row["progress"]["step"] == row["attempts"][1]["last_step"] == 40
    assert min(steps(client, job)) == 1 and len(steps(client, job)) == 40, "each step once, none is missing"
    events = client.get(f"jobs/{job}/events")["results"]
    started = [event["data"]["step"] for event in events if event["kind"] == "started"]
    assert started == [0, checkpoint["step"]]
    adaptor = client.get(f"adaptors/{row['adaptor']['name']}@{row['adaptor']['version']}")
    assert (adaptor["name"], adaptor["partial"], adaptor["manifest"]["steps"]) == ("resumed", False, 40)


def check_lost_job_is_requeued_and_resumed(client: Client, job: str) -> None:
    """It has 2,000 steps, so it is paused once it has passed its old checkpoint."""
    checkpoint = last_checkpoint(client, job)
    eventually(lambda: client.get(f"jobs/{job}")["state"] == "running", PATIENCE_SECONDS, "the lost job runs")
    eventually(lambda: max(steps(client, job)) > checkpoint["step"] + 5, PATIENCE_SECONDS, "it goes on")
    client.post(f"jobs/{job}/pause")
    row = wait(client, job, "paused")
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["lost", "stopped"]
    events = client.get(f"jobs/{job}/events")["results"]
    started = [event["data"]["step"] for event in events if event["kind"] == "started"]
    assert started == [0, checkpoint["step"]]


def check_claimed_job_is_queued_again(client: Client, job: str) -> None:
    row = client.get(f"jobs/{job}")
    assert (row["state"], row["attempts"][0]["outcome"]) == ("queued", "lost")
    assert "accelerated" in row["waiting"], "no worker of its pool is there"


def wait(client: Client, job: str, state: str) -> Record:
    over = ("succeeded", "failed", "cancelled", "paused")

    def ended() -> Any:
        row = client.get(f"jobs/{job}")
        return row if row["state"] in over and all(attempt["ended"] for attempt in row["attempts"]) else None

    row: Record = eventually(ended, PATIENCE_SECONDS, f"the end of {job}")
    assert row["state"] == state, row["reason"]
    return row


def last_checkpoint(client: Client, job: str) -> Record:
    rows: list[Record] = client.get(f"jobs/{job}/artifacts", kind="checkpoint")["results"]
    return max(rows, key=lambda row: row["step"])


def steps(client: Client, job: str) -> list[int]:
    return [step for step, _ in client.get(f"jobs/{job}/metrics", name="loss")["series"]["loss"]]
