"""One attempt from claim to finish: a real host process, real trainer processes, an API in memory."""

import os
import signal

import pytest

from tests.worker.conftest import StartHost, eventually, finished, running
from tests.worker.fake_api import FakeApi


def test_a_job_runs_from_claim_to_finish_and_leaves_nothing(api: FakeApi, start_host: StartHost) -> None:
    api.add_job("dog", steps=4, sample_every=2, checkpoint_every=2)
    host = start_host()
    attempt = finished(api)
    assert attempt.finish["outcome"] == "succeeded" and attempt.finish["exit_code"] == 0
    assert attempt.finish["last_step"] == 4 and attempt.finish["reason"] is None
    assert [file["path"] for file in attempt.finish["files"]] == ["adaptor/weights.safetensors", "manifest.json"]
    half = ["step", "step", "sample", "checkpoint"]
    assert attempt.kinds() == ["started", *half, *half, "finished"]
    assert [event["seq"] for event in attempt.events] == list(range(1, 11))
    assert sorted((result["kind"], result["step"]) for result in attempt.artifacts) == [
        ("checkpoint", 2), ("checkpoint", 4), ("sample", 2), ("sample", 4),
    ]  # fmt: skip
    assert attempt.log == b"training dog\n"
    eventually(lambda: not list((host.folder / "state" / "attempts").iterdir()))
    assert not host.tree()
    assert len(host.stamped("start")) == len(host.stamped("end")) == 1


def test_cancel_keeps_a_checkpoint_and_a_partial_adaptor(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000)
    start_host()
    attempt = running(api)
    attempt.stop = "cancel"
    finished(api)
    assert attempt.finish["outcome"] == "stopped" and attempt.finish["reason"]["code"] == "cancelled"
    assert attempt.finish["manifest"]["outcome"] == "stopped"
    assert "adaptor/weights.safetensors" in [file["path"] for file in attempt.finish["files"]]
    assert [result["kind"] for result in attempt.artifacts] == ["checkpoint"]
    stops = [event["data"] for event in attempt.events if event["data"]["kind"] == "control"]
    assert [(stop["seq"], stop["command"]) for stop in stops] == [(0, "stop")]


def test_a_checkpoint_is_published_after_the_steps_before_it(api: FakeApi, start_host: StartHost) -> None:
    """Else a job that resumes after it would never tell them."""
    api.add_job(steps=8, checkpoint_every=2)
    start_host()
    attempt = finished(api)
    assert [result["step"] for result in attempt.artifacts] == [2, 4, 6, 8]
    assert all(
        reported >= result["step"] for reported, result in zip(attempt.told_at_artifact, attempt.artifacts, strict=True)
    )


def test_a_step_that_is_saved_twice_is_published_once_and_stays_whole(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000, checkpoint_every=1, step_seconds=0.2)
    start_host()
    attempt = running(api)
    attempt.stop = "pause"
    finish = finished(api).finish
    assert finish["outcome"] == "stopped" and finish["reason"]["code"] == "paused"
    paths = [event["data"]["path"] for event in attempt.events if event["data"]["kind"] == "checkpoint"]
    assert paths[-1] == paths[-2], "the stop saved the last step once more"
    for artifact in attempt.artifacts:
        api.check(attempt, artifact["files"])
    assert attempt.artifacts[-1]["path"] == paths[-1]


def test_a_trainer_killed_from_outside_is_lost_so_that_it_resumes(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000)
    host = start_host()
    running(api)
    os.kill(host.stamped("start")[0]["pid"], signal.SIGKILL)
    finish = finished(api).finish
    assert (finish["outcome"], finish["exit_code"], finish["reason"]["code"]) == ("lost", -9, "worker_lost")
    assert "SIGKILL" in finish["reason"]["message"]


def test_save_now_is_obeyed_once_and_answered_with_its_own_seq(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000)
    start_host()
    attempt = running(api)
    attempt.control = {"seq": 7, "command": "save_now"}
    eventually(lambda: "control" in attempt.kinds())
    assert [e["data"]["seq"] for e in attempt.events if e["data"]["kind"] == "control"] == [7]
    beats = attempt.heartbeats
    eventually(lambda: attempt.heartbeats > beats + 2)
    assert attempt.kinds().count("control") == 1 and attempt.kinds().count("checkpoint") == 1


def test_a_silent_trainer_has_failed_for_want_of_progress(api: FakeApi, start_host: StartHost) -> None:
    api.times["no_progress_seconds"] = 0.7
    api.add_job(mode="hang")
    host = start_host()
    finish = finished(api).finish
    assert finish["outcome"] == "failed" and finish["reason"]["code"] == "no_progress"
    assert not host.tree()


@pytest.mark.parametrize("mode", ["flood", "flood_at_end"])
def test_a_trainer_that_writes_files_without_end_is_ended(api: FakeApi, start_host: StartHost, mode: str) -> None:
    api.add_job(mode=mode)
    host = start_host(ANNEAL_TRAINER_OUT_FILES="1000")
    finish = finished(api).finish
    assert finish["outcome"] == "failed" and finish["reason"]["code"] == "output_too_large"
    assert finish["reason"]["message"] == "Expected at most 1000 files and folders in out/, found more."
    assert finish["files"] == [] and not host.tree()


def test_a_deaf_trainer_is_killed_after_the_grace_and_still_counts_as_cancelled(
    api: FakeApi, start_host: StartHost
) -> None:
    api.times["stop_grace_seconds"] = 0.5
    api.add_job(mode="deaf", steps=10_000)
    host = start_host()
    running(api).stop = "cancel"
    finish = finished(api).finish
    assert (finish["outcome"], finish["exit_code"]) == ("stopped", -9)
    assert finish["manifest"] is None and not host.tree()


def test_grandchildren_in_their_own_sessions_are_ended_too(api: FakeApi, start_host: StartHost) -> None:
    api.times["stop_grace_seconds"] = 0.3
    api.add_job(mode="grandchildren")
    host = start_host()
    attempt = running(api)
    eventually(lambda: len(host.tree()) >= 4, what="shim, trainer and two grandchildren")
    attempt.stop = "cancel"
    finished(api)
    assert not host.tree()


def test_the_api_hears_at_once_what_an_attempt_does_before_its_first_step(api: FakeApi, start_host: StartHost) -> None:
    api.times["heartbeat_seconds"] = 60.0
    api.add_job(steps=20, step_seconds=0.05)
    start_host()
    attempt = finished(api)
    assert attempt.phases[0] == "fetching" and attempt.phases[-1] == "loading", "one heartbeat a phase"


def test_event_files_are_published_while_the_trainer_writes_them(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=10_000, step_seconds=0.02, board_bytes=100)
    start_host(ANNEAL_TENSORBOARD_SECONDS="0.1")
    attempt = running(api)
    eventually(lambda: len(attempt.artifacts) >= 3)
    assert not attempt.finish, "while it runs"
    attempt.stop = "cancel"
    finished(api)
    kinds = [row["path"].partition("/")[0] for row in attempt.artifacts]
    assert kinds.count("tensorboard") == 1 and kinds.count("tensorboard-live") >= 3
    rows = [row for row in attempt.artifacts if row["path"].startswith("tensorboard-live/")]
    assert len({row["details"]["file"] for row in rows}) == 1
    data = b""
    for row in rows:
        assert row["kind"] == "tensorboard" and row["details"]["start"] == len(data), "no gap"
        data += api.files[f"jobs/{attempt.id}/{row['path']}"]
    whole_file = api.files[f"jobs/{attempt.id}/tensorboard/events.out.tfevents.1"]
    assert data and whole_file.startswith(data)


def test_an_attempt_that_the_api_refuses_is_ended_at_once_in_silence(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(mode="deaf", steps=10_000)
    host = start_host()
    attempt = running(api)
    attempt.fenced = True
    eventually(lambda: not host.tree())
    eventually(lambda: not list((host.folder / "state" / "attempts").iterdir()))
    assert not attempt.finish and not list((host.folder / "state" / "finishes").glob("*.json"))


def test_without_an_answer_the_worker_fences_itself_before_the_lease_is_over(
    api: FakeApi, start_host: StartHost
) -> None:
    api.times["self_fence_seconds"] = 3.0
    api.add_job(mode="deaf", steps=10_000)
    host = start_host()
    attempt = running(api)
    api.down = True
    eventually(lambda: not host.tree())
    api.down = False
    eventually(lambda: attempt.finish)
    assert attempt.finish["outcome"] == "lost" and attempt.finish["reason"]["code"] == "worker_lost"


def test_a_host_that_is_stopped_cannot_keep_its_trainer_alive(api: FakeApi, start_host: StartHost) -> None:
    api.times["self_fence_seconds"] = 3.0
    api.add_job(mode="deaf", steps=10_000)
    host = start_host()
    attempt = running(api)
    host.signal(signal.SIGSTOP)
    try:
        eventually(lambda: not host.tree())
        attempt.fenced = True
    finally:
        host.signal(signal.SIGCONT)
    eventually(lambda: not list((host.folder / "state" / "attempts").iterdir()))
    assert not attempt.finish


def test_an_outage_shorter_than_the_fence_costs_nothing(api: FakeApi, start_host: StartHost) -> None:
    api.add_job(steps=100, step_seconds=0.01, checkpoint_every=50)
    start_host()
    attempt = running(api)
    api.down = True
    eventually(lambda: api.turned_away >= 5)
    api.down = False
    assert finished(api).finish["outcome"] == "succeeded"
    assert [event["seq"] for event in attempt.events] == list(range(1, len(attempt.events) + 1))


def test_a_finish_whose_answer_was_lost_is_repeated_and_counts_once(api: FakeApi, start_host: StartHost) -> None:
    api.lose_finish_answers = 2
    api.add_job()
    host = start_host()
    attempt = finished(api)
    eventually(lambda: attempt.finishes == 3)
    eventually(lambda: not list((host.folder / "state" / "finishes").glob("*.json")))


def test_storage_that_fails_for_a_while_is_tried_again(api: FakeApi, start_host: StartHost) -> None:
    api.storage_failures = 4
    api.add_job(steps=2, checkpoint_every=1)
    start_host()
    attempt = finished(api)
    assert attempt.finish["outcome"] == "succeeded" and len(attempt.artifacts) == 2


def test_storage_that_stays_broken_fails_with_its_name(api: FakeApi, start_host: StartHost) -> None:
    api.storage_failures = 10_000
    api.add_job(steps=2)
    start_host(ANNEAL_PUBLISH_SECONDS="1", ANNEAL_TRANSFER_ATTEMPTS="3")
    finish = finished(api).finish
    assert (finish["outcome"], finish["reason"]["code"]) == ("failed", "storage_refused")


def test_inputs_lie_below_in_and_broken_downloads_go_on(api: FakeApi, start_host: StartHost) -> None:
    api.break_downloads = 2
    dataset = api.add_input({"a.png": b"a" * 50_000, "deep/b.txt": b"b"})
    checkpoint = api.add_input({"state.json": b"{}", "manifest.json": b"{}"}, "ckpt")
    api.expired_links.add("/storage/data/deep/b.txt")
    api.add_job(inputs={"dataset": dataset, "adaptor/0": dataset, "checkpoint": checkpoint}, mode="list_inputs")
    start_host()
    log = finished(api).log.decode()
    checkpoint_files = "checkpoint/manifest.json checkpoint/state.json"
    assert f"adaptor/0/a.png adaptor/0/deep/b.txt {checkpoint_files} dataset/a.png dataset/deep/b.txt" in log


def test_an_input_with_another_digest_fails_the_attempt(api: FakeApi, start_host: StartHost) -> None:
    api.corrupt_downloads = 2
    api.add_job(inputs={"dataset": api.add_input({"a.png": b"a" * 1000})})
    start_host()
    finish = finished(api).finish
    assert (finish["outcome"], finish["reason"]["code"]) == ("failed", "input_corrupt")
    assert "a.png" in finish["reason"]["message"]


def test_a_stop_while_inputs_are_fetched_ends_before_the_trainer_starts(api: FakeApi, start_host: StartHost) -> None:
    missing = api.add_input({"a.png": b"a"})
    api.get_failures = 10_000
    api.add_job(inputs={"dataset": missing})
    host = start_host(ANNEAL_TRANSFER_ATTEMPTS="1000")
    eventually(lambda: api.attempts)
    api.only().stop = "cancel"
    assert finished(api).finish["outcome"] == "stopped"
    assert not host.stamped("start")
