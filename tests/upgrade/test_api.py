"""Today's API over the platform of 61dba2f: everything is listed, readable and downloads to the recorded bytes."""

import hashlib
import io
import zipfile
from typing import Any

import httpx
import pytest

from tests.upgrade.old_platform import OldPlatform

STATES = {
    "succeeded_image": "succeeded",
    "succeeded_text": "succeeded",
    "sampled": "succeeded",
    "rerun": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "paused": "paused",
    "queued": "queued",
    "queued_fetch": "queued",
    "claimed": "claimed",
    "running": "running",
}


def names(platform: OldPlatform, collection: str) -> list[str]:
    with platform.client as client:
        return sorted(row["name"] for row in client.pages(collection))


def get(platform: OldPlatform, path: str, **query: Any) -> Any:
    with platform.client as client:
        return client.get(path, **query)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_projects_datasets_models_templates_and_secrets_are_listed(served: OldPlatform) -> None:
    assert names(served, "projects") == ["default"]
    assert {"plain", "sums"} <= set(names(served, "datasets"))
    assert names(served, "models") == ["bert", "tiny"]
    assert "quick" in names(served, "templates")
    assert names(served, "secrets") == ["lab"]
    assert {row["name"] for row in get(served, "tokens")["results"]} >= {"setup", "a script"}
    members = get(served, "projects/default/members")["results"]
    assert {(row["user"], row["role"], row["accepted"]) for row in members} == {
        ("admin", "admin", True),
        ("anna@example.org", "writer", True),
    }


def test_every_job_has_its_state_and_inputs(served: OldPlatform) -> None:
    jobs = {role: get(served, f"jobs/{job}") for role, job in served.jobs.items()}
    assert {role: job["state"] for role, job in jobs.items()} == STATES
    assert {job["id"] for job in get(served, "jobs", limit=100)["results"]} >= set(served.jobs.values())
    assert jobs["succeeded_image"]["adaptor"] == {"name": "plain", "version": 1, "partial": False}
    assert jobs["succeeded_image"]["template"].startswith("quick@")
    assert jobs["rerun"]["parent"] == served.jobs["succeeded_image"]
    assert (jobs["queued"]["labels"], jobs["queued"]["notes"]) == (["lab", "night"], "Not before the summer.")
    assert jobs["failed"]["reason"]["code"] == "bad_parameters"
    assert jobs["paused"]["progress"]["step"] >= 5


def test_logs_curves_and_events_of_an_old_job_are_read(served: OldPlatform) -> None:
    job = served.jobs["succeeded_image"]
    with served.client as client:
        log = client.request("GET", f"jobs/{job}/log")
    assert int(log.headers["X-Log-Size"]) == len(log.content) > 0
    assert [step for step, _ in get(served, f"jobs/{job}/metrics", name="loss")["series"]["loss"]] == [1, 2, 3]
    kinds = [event["kind"] for event in get(served, f"jobs/{job}/events")["results"]]
    assert {"started", "finished", "artifact"} <= set(kinds)
    assert kinds[-1] == "state"


@pytest.mark.parametrize("ref", ["plain@1", "plain@2", "sums@1", "imported@1"])
def test_an_adaptor_downloads_to_the_bytes_that_its_row_records(ref: str, served: OldPlatform) -> None:
    adaptor = get(served, f"adaptors/{ref}")
    recorded = {file["path"]: file["sha256"] for file in adaptor["files"]}
    assert recorded
    assert {file["path"]: sha256(httpx.get(file["url"]).content) for file in adaptor["files"]} == recorded
    with served.client as client:
        archive = zipfile.ZipFile(io.BytesIO(client.request("GET", f"adaptors/{ref}/zip").content))
    digests = {name: sha256(archive.read(name)) for name in archive.namelist()}
    assert recorded.items() <= {name.partition("/")[2] or name: digest for name, digest in digests.items()}.items()


def test_old_manifests_are_read_and_searched(served: OldPlatform) -> None:
    manifest = get(served, "adaptors/plain@1")["manifest"]
    assert (manifest["method"], manifest["outcome"], manifest["steps"]) == ("image_lora", "succeeded", 3)
    assert manifest["spec_digest"] == get(served, "adaptors/plain@1/lineage")["spec_digest"]
    matches = get(served, "adaptors", **{"params.seed": 7, "manifest.steps__gte": 3, "sort": "-metrics.loss"})[
        "results"
    ]
    assert [(row["name"], row["version"]) for row in matches] == [("plain", 1)]
    assert [row["version"] for row in get(served, "adaptors", tag="good")["results"]] == [1]


def test_old_templates_are_readable_in_every_version_and_valid(served: OldPlatform) -> None:
    template = get(served, "templates/quick@2")
    assert (template["method"], template["dataset"], template["params"]["seed"]) == ("image_lora", "plain@1", 7)
    assert "seed" not in get(served, "templates/quick@1")["params"]
    with served.client as client:
        result = client.post("templates/quick@2/validate", {})
    assert result["valid"], result
