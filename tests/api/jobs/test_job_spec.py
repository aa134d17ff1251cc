"""What a trainer by hand is given."""

import pytest
from rest_framework.test import APIClient

from tests.api.host import Host
from tests.api.jobs.test_claim import submit
from tests.api.world import World
from trainers.contract.spec import folder_digest

pytestmark = pytest.mark.django_db


def test_the_spec_of_a_job_equals_that_of_its_attempt(user: APIClient, world: World, host: Host) -> None:
    job = submit(user, world)
    agent = host.claim()
    answer = user.get(f"/api/v1/jobs/{job}/spec").json()
    assert answer["spec"] == agent.claim["spec"]
    assert set(answer["inputs"]) == set(agent.claim["inputs"]) == {"dataset", "model"}
    for place, part in answer["inputs"].items():
        assert part["sha256"] == folder_digest(part["files"]) == agent.claim["inputs"][place]["sha256"]
        assert all(file["url"] for file in part["files"])


def test_the_spec_has_the_last_checkpoint_unless_the_job_succeeded(user: APIClient, world: World, host: Host) -> None:
    job = submit(user, world)
    agent = host.claim()
    agent.start()
    agent.checkpoint(4)
    answer = user.get(f"/api/v1/jobs/{job}/spec").json()
    assert answer["spec"]["inputs"]["checkpoint"]["details"] == {"step": 4}
    assert sorted(file["path"] for file in answer["inputs"]["checkpoint"]["files"]) == ["manifest.json", "state"]
    assert agent.finish().status_code == 200
    assert "checkpoint" not in user.get(f"/api/v1/jobs/{job}/spec").json()["inputs"]
