"""A project in which something of everything exists, and one caller of every kind."""

import uuid
from dataclasses import dataclass
from typing import Any

from rest_framework.test import APIClient

from api.accounts.models import Membership, Project, Token
from api.accounts.secrets import secret_put
from api.accounts.tokens import worker_token_create
from api.catalog.models import Dataset, PretrainedModel, Upload
from api.jobs.models import Manifest
from tests.api.actors import person, worker
from tests.api.host import Agent, Host
from tests.api.world import world_make

PROJECT = "kept-apart"
PREFIX = f"of-{PROJECT}"
"""In the names of its members; no answer to a stranger may have it."""
HUSH = "hf_never_to_be_read_again"
"""The value of the secret that is there: in no answer at all."""


@dataclass
class Scene:
    clients: dict[str, APIClient]
    """By the word for who calls."""
    agent: Agent
    """Of a running attempt."""
    other_agent: Agent
    host: Host
    names: dict[str, str]
    """What stands for the first variable of an address, by the word before it."""
    seconds: dict[str, str]
    """What stands for a later variable, by its name, or by the word before the first and its name."""
    request: dict[str, Any]
    """Body of `POST jobs`."""
    secrets: tuple[str, ...]
    """What only members may read."""


def scene_make() -> Scene:
    """Needs `secrets_keys` in the settings."""
    project = Project.objects.create(name=PROJECT)
    world = world_make(project)
    people = {role: person(PROJECT, role) for role in ("reader", "writer", "admin")}
    host = Host(worker_token_create(name="test")[0])
    host.hello(slots=3)
    finished, running, third = (_started(people["writer"], world.request, host) for _ in range(3))
    assert finished.finish("succeeded").status_code == 200
    running.checkpoint(5)
    Manifest.objects.create(attempt_id=running.id, data={})
    template = {"name": "plain", **{key: world.request[key] for key in ("method", "params", "dataset", "model")}}
    created = people["writer"].post("/api/v1/templates", template, format="json")
    assert created.status_code == 201, created.content
    secret_put(project=project, name="hub", kind="hub", value=HUSH, by="test")
    person(PROJECT, "guest")
    Membership.objects.filter(role="guest").update(role="reader")
    token = Token.objects.get(user__username=f"guest-{PREFIX}")
    clients = {
        "anonymous": APIClient(),
        "stranger": person("other", "admin"),
        "worker": worker(),
        "attempt": third.client,
        **people,
    }
    return Scene(
        clients=clients,
        agent=running,
        other_agent=third,
        host=host,
        names={
            "datasets": "shapes",
            "models": "base",
            "templates": "plain",
            "adaptors": "shapes",
            "methods": "image_lora",
            "jobs": running.job,
            "attempts": running.id,
            "workers": host.worker,
            "tokens": str(token.pk),
            "projects": PROJECT,
            "users": f"reader-of-{PROJECT}",
            "secrets": "hub",
            "samplings": finished.job,
        },
        seconds={
            "username": f"guest-{PREFIX}",
            "datasets/upload_id": _upload("datasets", Dataset.objects.get(project=project)),
            "models/upload_id": _upload("models", PretrainedModel.objects.get(project=project)),
        },
        request=world.request,
        secrets=(running.job, finished.job, running.id, str(token.pk), PREFIX),
    )


def _started(client: APIClient, request: dict[str, Any], host: Host) -> Agent:
    created = client.post("/api/v1/jobs", request, format="json")
    assert created.status_code == 201, created.content
    agent = host.claim()
    agent.start()
    return agent


def _upload(kind: str, record: Any) -> str:
    body = {"kind": kind, "project": record.project, "record_id": record.pk, "files": []}
    return str(Upload.objects.create(**body, digest=uuid.uuid4().hex * 2).pk)
