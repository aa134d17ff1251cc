"""Heartbeats and what rides back in their answers; events, log and files of an attempt."""

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from api.catalog.removals import removals_sweep
from api.jobs.models import Artifact, Attempt, Event, Job, Metric
from api.jobs.services.log import logs_compact
from api.storage import storage
from tests.api.host import Agent, Host, event, step_event
from tests.api.jobs.test_claim import submit
from tests.api.world import Clock, Environ, World, file_entry

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    return host.claim()


def test_a_heartbeat_renews_the_lease_also_an_expired_one(agent: Agent, clock: Clock) -> None:
    before = Attempt.objects.get().lease_expires_at
    clock.advance(320)
    assert agent.heartbeat().json() == {"stop": None, "control": None, "interval": 15.0}
    assert (Attempt.objects.get().lease_expires_at - before).total_seconds() >= 320


def test_a_claimed_job_shows_the_phase_of_its_worker(agent: Agent, user: APIClient) -> None:
    shown = f"/api/v1/jobs/{agent.job}"
    assert agent.heartbeat().status_code == 200 and user.get(shown).json()["phase"] is None, "an older worker"
    for phase in ("fetching", "fetching", "of a newer worker", "importing", "loading"):
        assert agent.heartbeat(phase=phase).status_code == 200
    assert (user.get(shown).json()["state"], user.get(shown).json()["phase"]) == ("claimed", "loading")
    agent.start()
    assert agent.heartbeat(phase="importing").status_code == 200 and user.get(shown).json()["phase"] is None
    events = user.get(f"{shown}/events").json()["results"]
    phases = [event["data"]["phase"] for event in events if event["kind"] == "phase"]
    assert phases == ["fetching", "importing", "loading"], "each once, for followers of the job"


def test_a_heartbeat_with_another_fence_is_refused(agent: Agent) -> None:
    answer = agent.heartbeat(fence=7)
    assert (answer.status_code, answer.json()["code"]) == (409, "fenced")


def test_a_token_opens_no_other_attempt(agent: Agent, world: World, user: APIClient, host: Host) -> None:
    agent.finish("failed")
    submit(user, world)
    other = host.claim()
    agent.id = other.id
    assert agent.heartbeat().status_code == 403
    assert user.post(f"/internal/v1/attempts/{other.id}/heartbeat", {"fence": 1}, format="json").status_code == 401
    assert host.client.post(f"/internal/v1/attempts/{other.id}/heartbeat", {}, format="json").status_code == 401


def test_cancel_of_a_running_job_rides_back_in_the_heartbeat(agent: Agent, user: APIClient) -> None:
    agent.start()
    shown = user.post(f"/api/v1/jobs/{agent.job}/cancel").json()
    assert (shown["state"], shown["stopping"]) == ("running", True)
    assert agent.heartbeat().json()["stop"] == "cancel"
    assert agent.finish("stopped").json()["outcome"] == "stopped"
    shown = user.get(f"/api/v1/jobs/{agent.job}").json()
    assert (shown["state"], shown["reason"]["code"], shown["adaptor"]["partial"]) == ("cancelled", "cancelled", True)


def test_a_control_command_is_repeated_until_its_event_came(host: Host, world: World, user: APIClient) -> None:
    world.request["params"]["eval_prompt"] = "a cat"
    submit(user, world)
    agent = host.claim()
    agent.start()
    user.post(f"/api/v1/jobs/{agent.job}/control", {"command": "save_now"}, format="json")
    assert agent.heartbeat().json()["control"] == {"seq": 1, "command": "save_now"}
    user.post(f"/api/v1/jobs/{agent.job}/control", {"command": "sample_now"}, format="json")
    assert agent.heartbeat().json()["control"] == {"seq": 2, "command": "sample_now"}
    agent.events(event(2, "control", seq=2, command="sample_now", step=1))
    assert agent.heartbeat().json()["control"] is None


def test_samples_of_a_job_that_has_none_to_show_are_refused(agent: Agent, user: APIClient) -> None:
    agent.start()
    answer = user.post(f"/api/v1/jobs/{agent.job}/control", {"command": "sample_now"}, format="json")
    assert (
        answer.status_code == 400 and "sample_now needs eval prompts or a validation_split" in answer.json()["message"]
    )
    assert agent.heartbeat().json()["control"] is None


def test_control_of_a_job_that_does_not_run_is_refused(world: World, user: APIClient) -> None:
    job = submit(user, world)
    answer = user.post(f"/api/v1/jobs/{job}/control", {"command": "save_now"}, format="json")
    assert (answer.status_code, answer.json()["fields"]["state"]) == (409, ["queued"])


def test_events_sent_twice_are_recorded_once(agent: Agent) -> None:
    agent.start()
    batch = [step_event(2, 1), event(3, "warning", message="slow"), step_event(4, 2)]
    assert agent.events(*batch).json() == {"next_seq": 5}
    assert agent.events(*batch).json() == {"next_seq": 5}
    assert agent.events(batch[2], step_event(5, 3)).json() == {"next_seq": 6}
    assert Event.objects.filter(kind="warning").count() == 1
    assert list(Metric.objects.filter(name="loss").order_by("step").values_list("step", flat=True)) == [1, 2, 3]


def test_after_a_gap_nothing_is_recorded_and_the_expected_seq_is_returned(agent: Agent) -> None:
    agent.start()
    assert agent.events(step_event(5, 4)).json() == {"next_seq": 2}
    assert Metric.objects.count() == 0


def test_event_seqs_of_a_job_have_no_holes(agent: Agent) -> None:
    agent.start()
    agent.events(event(2, "warning", message="a"), step_event(3, 1), event(4, "warning", message="b"))
    seqs = list(Event.objects.order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))


def test_recording_many_steps_needs_few_queries(agent: Agent, django_assert_max_num_queries: object) -> None:
    agent.start()
    with django_assert_max_num_queries(16):  # type: ignore[operator]  # pytest-django's fixture
        agent.events(*[step_event(seq, seq) for seq in range(2, 302)])
    assert Metric.objects.filter(name="loss").count() == 300


def test_recording_many_events_needs_few_queries(agent: Agent, django_assert_max_num_queries: object) -> None:
    """Three queries an event made 10,000 events take 43 s on SQLite."""
    started, warnings = (
        event(1, "started", total=10, step=0),
        [event(seq, "warning", message="x") for seq in range(2, 501)],
    )
    with django_assert_max_num_queries(24):  # type: ignore[operator]  # pytest-django's fixture
        assert agent.events(started, *warnings).json() == {"next_seq": 501}
    rows = list(Event.objects.order_by("seq").values_list("seq", "kind", "attempt_seq"))
    assert [row[0] for row in rows] == list(range(1, 504)), "queued, claimed, started, running, 499 warnings"
    assert [row[1:] for row in rows[2:5]] == [("started", 1), ("state", None), ("warning", 2)]
    agent.events(started, *warnings)
    assert Event.objects.count() == 503


@pytest.mark.parametrize(
    ("report", "statements"),
    [
        (lambda agent, _: agent.events(event(2, "warning", message="x"), step_event(3, 1)), 8),
        (lambda agent, _: agent.log(0, b"a line"), 4),
        (lambda agent, _: agent.heartbeat(), 4),
        (lambda _, host: host.heartbeat(), 4),
    ],
    ids=["events", "log", "heartbeat", "host heartbeat"],
)
def test_a_report_is_few_statements_that_read_no_wide_row(
    report: Callable[[Agent, Host], object], statements: int, agent: Agent, host: Host
) -> None:
    """Hundreds of workers send them: each statement holds SQLite's write lock, and wide rows cost Django most."""
    agent.start()
    with CaptureQueriesContext(connection) as queries:
        report(agent, host)
    queried = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len(queried) == statements, queried
    assert not any('"spec"' in sql or '"token_hash",' in sql for sql in queried), queried


def test_a_step_before_the_start_keeps_its_progress(agent: Agent) -> None:
    """The move to running reads the job's row again."""
    agent.events(
        step_event(1, 1), event(2, "control", command="save_now", seq=3, step=1), event(3, "started", total=9, step=0)
    )
    job = Job.objects.get()
    assert job.progress is not None
    assert (job.progress["step"], job.control_obeyed, job.state, job.event_seq) == (1, 3, "running", 5)


def test_a_resumed_curve_has_no_double_part(agent: Agent, user: APIClient, host: Host) -> None:
    agent.start()
    agent.events(*[step_event(seq, seq - 1, loss=1.0) for seq in range(2, 8)])
    assert agent.checkpoint(4).status_code == 200
    agent.finish("drained")
    resumed = host.claim()
    assert resumed.claim["spec"]["inputs"]["checkpoint"]["details"] == {"step": 4}
    assert [file["path"] for file in resumed.claim["inputs"]["checkpoint"]["files"]] == ["state", "manifest.json"]
    resumed.start(step=4)
    resumed.events(step_event(2, 5, loss=2.0))
    series = user.get(f"/api/v1/jobs/{agent.job}/metrics?name=loss").json()["series"]["loss"]
    assert series == [[1, 1.0], [2, 1.0], [3, 1.0], [4, 1.0], [5, 2.0]]
    assert user.get(f"/api/v1/jobs/{agent.job}").json()["attempts"][1]["resumed_from"] == 4


def test_the_log_grows_at_its_end_and_bears_repetition(agent: Agent, user: APIClient) -> None:
    assert agent.log(0, b"hello ")["Upload-Offset"] == "6"
    assert agent.log(6, b"world\n").status_code == 204
    assert agent.log(0, b"hello ").status_code == 204
    assert agent.log(2, b"llo wor").status_code == 204
    for offset, data in ((20, b"late"), (0, b"jello ")):
        refused = agent.log(offset, data)
        assert (refused.status_code, refused.json()["code"], refused.json()["fields"]) == (
            409,
            "log_offset",
            {"expected": [12]},
        )
    answer = user.get(f"/api/v1/jobs/{agent.job}/log?offset=4&limit=5")
    assert (answer.content, answer["X-Log-Size"], answer["Content-Type"]) == (
        b"o wor",
        "12",
        "text/plain; charset=utf-8",
    )
    ranged = user.get(f"/api/v1/jobs/{agent.job}/log", headers={"Range": "bytes=6-"})
    assert (ranged.status_code, ranged.content, ranged["Content-Range"]) == (206, b"world\n", "bytes 6-11/12")


def test_a_log_that_is_too_large_for_one_call_is_refused(agent: Agent) -> None:
    assert agent.log(0, b"x" * (256 * 1024 + 1)).status_code == 413


def test_an_endless_log_is_refused_at_its_limit_and_the_attempt_continues(agent: Agent, environ: Environ) -> None:
    environ(attempt_log_bytes=10)
    assert agent.log(0, b"12345678").status_code == 204
    for offset, data in ((8, b"9abc"), (12, b"d"), (8, b"9abc")):  # a worker that skips what was refused
        answer = agent.log(offset, data)
        assert (answer.status_code, answer.json()["code"]) == (413, "log_full")
    assert agent.log(0, b"12345678").status_code == 204, "the same bytes again"
    assert agent.finish("failed").status_code == 200


def test_the_log_of_two_attempts_reads_as_one_also_after_it_was_stored(
    agent: Agent, user: APIClient, host: Host
) -> None:
    agent.log(0, b"one\n")
    agent.log(4, b"uno\n")
    agent.finish("drained")
    assert agent.log(8, b"late").status_code == 410
    assert logs_compact() == 1
    assert logs_compact() == 0
    resumed = host.claim()
    resumed.log(0, b"two\n")
    answer = user.get(f"/api/v1/jobs/{agent.job}/log?offset=2")
    assert (answer.content, answer["X-Log-Size"]) == (b"e\nuno\ntwo\n", "12")


def test_a_stored_file_is_not_requested_again(agent: Agent) -> None:
    entry = agent.store("samples/a.png", b"image")
    granted = agent.post("uploads", {"files": [entry, file_entry("samples/b.png", b"other")]}).json()["files"]
    assert granted[0]["url"] is None
    assert granted[1]["method"] == "PUT"
    assert f"/jobs/{agent.job}/1/samples/b.png" in granted[1]["url"]


def test_an_upload_cannot_leave_its_prefix(agent: Agent) -> None:
    for path in ("../2/a", "/etc/passwd", "a/../../b"):
        assert agent.post("uploads", {"files": [file_entry(path, b"x")]}).status_code == 400


def test_an_artifact_whose_files_are_not_there_is_refused(agent: Agent) -> None:
    body = {"kind": "sample", "step": 1, "path": "samples/a.png", "files": [file_entry("samples/a.png", b"image")]}
    refused = agent.post("artifacts", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "file_missing")
    assert Artifact.objects.count() == 0


def test_samples_are_listed_with_signed_links(agent: Agent, user: APIClient) -> None:
    files = [agent.store("samples/a.png", b"image")]
    body = {"kind": "sample", "step": 3, "path": "samples/a.png", "files": files, "details": {"prompt": "a square"}}
    assert agent.post("artifacts", body).status_code == 200
    assert agent.post("artifacts", body).status_code == 200
    listed = user.get(f"/api/v1/jobs/{agent.job}/samples").json()["results"]
    assert [(one["step"], one["path"], one["details"]) for one in listed] == [
        (3, "samples/a.png", {"prompt": "a square"})
    ]
    assert listed[0]["url"].startswith("http://testserver/storage/jobs/")


def test_a_published_checkpoint_forgives_earlier_losses(agent: Agent) -> None:
    Job.objects.filter(pk=agent.job).update(losses_without_checkpoint=2)
    agent.checkpoint(4)
    job = Job.objects.get(pk=agent.job)
    assert (job.losses_without_checkpoint, job.checkpoint is not None and job.checkpoint.step) == (0, 4)


def test_fresh_links_are_granted_for_inputs_only(agent: Agent) -> None:
    assert agent.post("links", {"paths": ["dataset/a.png"]}).json()["files"][0]["url"].startswith("http")
    assert agent.post("links", {"paths": ["dataset/none.png"]}).status_code == 404


def test_only_the_latest_checkpoints_remain(world: World, user: APIClient, host: Host) -> None:
    submit(user, world, params={**world.request["params"], "keep_checkpoints": 2})
    agent = host.claim()
    for step in (1, 2, 3):
        assert agent.checkpoint(step).status_code == 200
    assert list(Artifact.objects.order_by("step").values_list("step", flat=True)) == [2, 3]
    removals_sweep()
    folders = {key.split("/")[-2] for key, _ in storage().list(f"jobs/{agent.job}/1/checkpoints/")}
    assert folders == {"step-00000002", "step-00000003"}
    agent.finish("drained")
    resumed = host.claim()
    for step in (4, 5, 6):
        resumed.checkpoint(step)
    steps = list(Artifact.objects.order_by("step").values_list("step", flat=True))
    assert steps == [3, 5, 6], "the checkpoint that the attempt resumed from stays while it lives"


def test_pieces_of_growing_files_make_no_event_and_are_removed_with_the_complete_files(
    agent: Agent, user: APIClient
) -> None:
    agent.start()
    for number in (0, 1):
        piece = agent.store(f"tensorboard-live/000-{number}.part", b"x")
        body = {"kind": "tensorboard", "step": 1, "path": piece["path"], "files": [piece]}
        assert (
            agent.post("artifacts", {**body, "details": {"file": "tensorboard/a", "start": number}}).status_code == 200
        )
    shown = f"/api/v1/jobs/{agent.job}/artifacts?kind=tensorboard"
    assert [row["details"]["start"] for row in user.get(shown).json()["results"]] == [0, 1]
    assert not Event.objects.filter(kind="artifact").exists()
    complete = agent.store("tensorboard/a", b"xx")
    body = {"kind": "tensorboard", "step": 1, "path": "tensorboard", "files": [complete]}
    assert agent.post("artifacts", body).status_code == 200
    assert [row["path"] for row in user.get(shown).json()["results"]] == ["tensorboard"]
    removals_sweep()
    left = [key for key, _ in storage().list(f"jobs/{agent.job}/")]
    assert [key.rpartition("/")[2] for key in left] == ["a"]
