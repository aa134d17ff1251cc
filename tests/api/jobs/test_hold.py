"""A restored copy starts nothing that the original still runs, and says how to log in."""

from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from rest_framework.test import APIClient

from api.jobs.models import Attempt, Job
from api.jobs.states import State
from tests.api.host import Host
from tests.api.world import World

pytestmark = pytest.mark.django_db


def test_a_restored_copy_pauses_its_jobs_and_names_who_may_log_in(world: World, user: APIClient, host: Host) -> None:
    get_user_model().objects.create_superuser("root", password="a long password")
    running = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    agent = host.claim()
    agent.start()
    agent.checkpoint(5)
    queued = user.post("/api/v1/jobs", {**world.request, "name": "second"}, format="json").json()["id"]
    written = StringIO()
    call_command("hold", stdout=written)
    assert "2 jobs are paused" in written.getvalue() and "root" in written.getvalue()
    assert set(Job.objects.values_list("state", flat=True)) == {State.PAUSED}
    assert not Attempt.objects.filter(ended_at=None).exists()
    assert host.claim_post().status_code == 204
    call_command("hold", stdout=written)
    assert "0 jobs are paused" in written.getvalue()
    for job in (running, queued):
        assert user.post(f"/api/v1/jobs/{job}/resume").status_code == 200
    assert host.claim().claim["job"]["id"] in (running, queued)
