"""How an attempt's end reaches the API: whatever the trainer wrote, nothing that was produced is thrown away."""

import json
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from api.jobs.models import Attempt, Job
from api.storage import storage
from tests.api.host import Agent, Host, event
from tests.api.live_attempt import Live, live
from tests.api.world import World
from trainers.contract.errors import ReasonCode, reason

pytestmark = pytest.mark.django_db(transaction=True)
DIRTY = "NUL \0, half a character \ud800, end"
CLEAN = "NUL \ufffd, half a character \ufffd, end"


@pytest.fixture
def job(world: World, user: APIClient) -> str:
    job_id: str = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    return job_id


def result_write(scene: Live, agent: Agent, **manifest: Any) -> dict[str, Any]:
    """A complete result in out/, and the body of its finish."""
    body = {**agent.finish_body("succeeded"), "resends": True}
    body["manifest"] = {**body["manifest"], **manifest}
    for file in body["files"]:
        path = scene.out / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    (scene.out / "manifest.json").write_text(json.dumps(body["manifest"]))
    return body


def test_a_success_with_dirty_text_in_its_manifest_is_a_success(job: str, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        scene.put(result_write(scene, scene.agent, notes={DIRTY: [DIRTY, float("nan"), 2**80]}))
        assert scene.deliver() == 1
        assert scene.refused.count() == 0
    assert (Job.objects.get(pk=job).state, Attempt.objects.count()) == ("succeeded", 1)


def test_a_failure_with_dirty_text_keeps_its_cause(job: str, user: APIClient, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        because = reason(ReasonCode.BAD_DATASET, DIRTY, f"log: {DIRTY}").model_dump(mode="json")
        scene.put({"outcome": "failed", "exit_code": 1, "reason": because, "manifest": None, "files": []})
        assert scene.deliver() == 1
    record = user.get(f"/api/v1/jobs/{job}").json()
    assert record["state"] == "failed"
    assert (record["reason"]["code"], record["reason"]["message"]) == ("bad_dataset", CLEAN)


@pytest.mark.django_db
def test_the_api_cleans_what_an_older_worker_sends(job: str, host: Host, user: APIClient) -> None:
    agent = host.claim()
    agent.start()
    because = reason(ReasonCode.INTERNAL, DIRTY, DIRTY).model_dump(mode="json")
    bodies = {
        "events": {"first_seq": 2, "events": [event(2, "warning", message=DIRTY)]},
        "finish": {"outcome": "failed", "exit_code": 1, "reason": because, "manifest": None, "files": []},
    }
    for what, body in bodies.items():
        path = f"/internal/v1/attempts/{agent.id}/{what}"
        answer = agent.client.post(path, json.dumps(body), content_type="application/json")
        assert answer.status_code == 200, answer.content
    messages = [
        e["data"]["message"] for e in user.get(f"/api/v1/jobs/{job}/events").json()["results"] if e["kind"] == "warning"
    ]
    assert messages == [CLEAN]
    assert user.get(f"/api/v1/jobs/{job}").json()["reason"]["detail"] == CLEAN


def test_a_refused_finish_keeps_the_result_and_ends_the_job_in_the_apis_words(
    job: str, user: APIClient, host: Host, tmp_path: Path
) -> None:
    with live(host, tmp_path) as scene:
        body = result_write(scene, scene.agent)
        body["files"] += [{"path": "x" * 600, "size": 1, "sha256": "0" * 64}]
        scene.put(body)
        assert scene.deliver() == 2
        folder = scene.folder / "refused" / scene.agent.id
        assert (folder / "out" / "adaptor" / "pytorch_lora_weights.safetensors").read_bytes() == b"weights"
        assert json.loads((folder / "finish.json").read_text())["body"]["outcome"] == "succeeded"
        assert (scene.refused.count(), scene.outbox.pending()) == (1, [])
    record = user.get(f"/api/v1/jobs/{job}").json()
    assert (record["state"], len(record["attempts"])) == ("failed", 1)
    assert record["reason"]["code"] == "result_refused"
    assert "files.1.path" in record["reason"]["message"] and "succeeded" in record["reason"]["detail"]


def test_a_file_that_is_missing_at_the_finish_is_sent_again(job: str, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        scene.put(result_write(scene, scene.agent))
        storage().delete_prefix(f"jobs/{job}/1/adaptor/")
        assert scene.deliver() == 2
        assert scene.refused.count() == 0
    assert (Job.objects.get(pk=job).state, Attempt.objects.count()) == ("succeeded", 1)


def test_a_file_that_is_missing_everywhere_fails_the_job_and_keeps_the_rest(
    job: str, user: APIClient, host: Host, tmp_path: Path
) -> None:
    with live(host, tmp_path) as scene:
        scene.put(result_write(scene, scene.agent))
        storage().delete_prefix(f"jobs/{job}/1/adaptor/")
        (scene.out / "adaptor" / "pytorch_lora_weights.safetensors").unlink()
        scene.deliver()
    record = user.get(f"/api/v1/jobs/{job}").json()
    assert (record["state"], record["reason"]["code"]) == ("failed", "no_manifest")
    assert "is missing" in record["reason"]["detail"]


@pytest.mark.django_db
def test_a_worker_that_cannot_send_again_gets_no_409(job: str, host: Host) -> None:
    agent = host.claim()
    agent.start()
    body = agent.finish_body("succeeded")
    storage().delete_prefix(f"jobs/{job}/1/adaptor/")
    assert agent.post("finish", body).json()["reason"]["code"] == "no_manifest"


def test_a_result_that_its_failed_finish_omits_stays(job: str, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        result_write(scene, scene.agent)
        because = reason(ReasonCode.INTERNAL, "the worker broke").model_dump(mode="json")
        body = {"outcome": "failed", "exit_code": 0, "reason": because, "manifest": None, "files": []}
        scene.outbox.put(scene.agent.id, scene.token, body, "the attempt ended as failed: the worker broke")
        assert scene.deliver() == 1
        assert scene.refused.count() == 1
    assert Job.objects.get(pk=job).state == "failed"


def test_a_finish_of_an_attempt_that_the_api_ended_stays_on_the_worker(job: str, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        body = result_write(scene, scene.agent)
        assert scene.agent.finish("failed").status_code == 200
        scene.put(body)
        assert scene.deliver() == 1
        assert scene.refused.count() == 1
    assert Job.objects.get(pk=job).state == "failed"


def test_a_refusal_on_a_full_disk_still_ends_the_job(
    job: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(host, tmp_path) as scene:
        body = result_write(scene, scene.agent)
        scene.put({**body, "last_step": -1})

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("worker.attempt.outbox.write_json", full)
        monkeypatch.setattr("worker.attempt.outbox.write_json", full)
        assert scene.deliver() == 1
        assert scene.refused.count() == 1
    assert Job.objects.get(pk=job).state == "failed"


def test_a_torn_finish_is_set_aside(job: str, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        result_write(scene, scene.agent)
        torn = scene.folder / "finishes" / f"{scene.agent.id}.json"
        for content in ('{"token": "ana_', "[]", '{"token": 1, "body": {"outcome": "failed"}}'):
            torn.write_text(content)
            assert scene.deliver() == 1
            assert scene.outbox.pending() == []
            assert (scene.folder / "finishes" / "torn" / torn.name).read_text() == content
        assert scene.refused.count() == 1
    assert Job.objects.get(pk=job).state == "running"


def test_the_oldest_refused_results_go_where_there_is_no_room(host: Host, tmp_path: Path, job: str) -> None:
    with live(host, tmp_path) as scene:
        scene.refused._limit_bytes = 10
        result_write(scene, scene.agent)
        scene.refused.add("first", scene.out, "why")
        result_write(scene, scene.agent)
        scene.refused.add("second", scene.out, "why")
        assert [entry.name for entry in (scene.folder / "refused").iterdir()] == ["second"]
    assert job
