"""Attempts in tests of jobs."""

import pytest
from rest_framework.test import APIClient

from tests.api.host import Agent, Host
from tests.api.world import World


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    """Of a running attempt."""
    response = user.post("/api/v1/jobs", world.request, format="json")
    assert response.status_code == 201, response.content
    agent = host.claim()
    agent.start()
    return agent
