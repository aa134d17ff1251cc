"""No number of a request is larger than its column: out of range is 400 with the field and its bound, never 500."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from rest_framework.test import APIClient

import api.urls  # noqa: F401  all views, and with them all requests
from tests.api.host import Agent, Host, event, step_event
from tests.api.jobs.test_claim import submit
from tests.api.world import World
from trainers.contract.events import Event
from trainers.contract.params.base import Params
from trainers.contract.spec import Contract

HUGE = 2**31


def subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for result in model.__subclasses__():
        yield result
        yield from subclasses(result)


REQUESTS = sorted(
    {result for result in subclasses(Contract) if result.__module__.startswith("api.")} | {Event},
    key=lambda result: result.__qualname__,
)


def unbounded(schema: Any, place: str = "") -> Iterator[str]:
    """Integers without a maximum; what a method's parameters hold is JSON, with bounds of its own."""
    if isinstance(schema, list):
        for part in schema:
            yield from unbounded(part, place)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum", "enum", "const"} & set(schema):
        yield place
    for name, part in schema.items():
        yield from unbounded(part, f"{place}/{name}")


ELSEWHERE = {"FileEntry": "size", "UploadRequest": "size"}
"""Bounded by api.catalog.versions.filelist, with the file's name in the message."""


@pytest.mark.parametrize("model", REQUESTS, ids=lambda result: result.__name__)
def test_every_integer_of_a_request_has_a_bound(model: type[BaseModel]) -> None:
    if not issubclass(model, Params):
        places = unbounded(model.model_json_schema())
        assert [place for place in places if not place.endswith(ELSEWHERE.get(model.__name__, "/"))] == []


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    agent = host.claim()
    agent.start()
    return agent


def refused(answer: Any, field: str) -> None:
    body = answer.json()
    assert answer.status_code == 400, body
    named = {name: message for name, message in body["fields"].items() if name.endswith(field)}
    assert named and any("less than or equal to" in line for lines in named.values() for line in lines), body


@pytest.mark.django_db
def test_numbers_out_of_range_are_refused_with_field_and_bound(agent: Agent) -> None:
    refused(agent.events(step_event(2, HUGE)), "step")
    refused(agent.events(event(2, "checkpoint", step=HUGE, path="c")), "step")
    refused(agent.post("heartbeat", {"fence": HUGE, "progress_seq": 1}), "fence")
    file = {"path": "c/a", "size": 2**62, "sha256": "0" * 64}
    refused(agent.post("uploads", {"files": [file]}), "size")
    publication = {"kind": "checkpoint", "step": HUGE, "path": "c", "files": [{**file, "size": 1}]}
    refused(agent.post("artifacts", publication), "step")
    refused(agent.finish("failed", exit_code=HUGE), "exit_code")
    refused(agent.finish("failed", last_step=HUGE), "last_step")


@pytest.mark.django_db
def test_the_largest_numbers_are_taken(agent: Agent) -> None:
    assert agent.events(step_event(2, HUGE - 1, total=HUGE - 1)).status_code == 200
    assert agent.finish("failed", exit_code=-11, last_step=HUGE - 1).status_code == 200
