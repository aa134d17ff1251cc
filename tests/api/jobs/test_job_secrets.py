"""Secrets of jobs: named in parameters, checked at submit, given by the claim alone."""

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from rest_framework.test import APIClient

from api.accounts.models import ProjectSecret
from api.audit.models import Audit
from api.errors import Problem
from api.jobs.models import Attempt, Job
from api.jobs.services.submit import hub_check
from tests.api.accounts.test_secrets import database_dump
from tests.api.actors import person
from tests.api.host import Host, event
from tests.api.world import Environ, World
from trainers.contract.params.fetch import ImportModelParams

pytestmark = pytest.mark.django_db
VALUE, ODD = "hf_" + "s3cret" * 6, "generic-s3cret-value"
ENDPOINT = "https://huggingface.co"


@pytest.fixture(autouse=True)
def with_key(environ: Environ) -> None:
    environ(secrets_keys=Fernet.generate_key().decode())


@pytest.fixture
def stored(user: APIClient) -> None:
    """Two secrets of the project: hub and odd."""
    for name, kind, value in (("hub", "hub", VALUE), ("odd", "generic", ODD)):
        answer = user.put(f"/api/v1/secrets/{name}", {"kind": kind, "value": value}, format="json")
        assert answer.status_code == 201


def submit(client: APIClient, *secrets: str, **params: Any) -> Any:
    fetch_params = {"name": "tiny", "repo": "me/tiny", "secrets": secrets, **params}
    return client.post("/api/v1/jobs", {"method": "fetch_dataset", "params": fetch_params}, format="json")


@pytest.mark.usefixtures("stored")
def test_only_the_claim_has_the_values_and_it_is_audited(user: APIClient, host: Host) -> None:
    job = submit(user, "hub", "odd")
    assert job.status_code == 201
    agent = host.claim()
    assert agent.claim["secrets"] == {"HF_TOKEN": VALUE, "ANNEAL_SECRET_ODD": ODD}
    assert agent.claim["missing_secrets"] == []
    assert agent.claim["spec"]["params"]["secrets"] == ["hub", "odd"]
    agent.start()
    agent.events(event(2, "warning", message="x"))
    agent.finish("failed")
    url = f"/api/v1/jobs/{job.json()['id']}"
    answers = [user.get(url), *(user.get(f"{url}/{what}") for what in ("events", "artifacts", "samples", "log"))]
    answers += [user.get(f"/api/v1/{what}") for what in ("jobs", "secrets", "audit", "me", "workers", "datasets")]
    output = database_dump() + "".join(answer.content.decode() for answer in answers)
    assert VALUE not in output and ODD not in output
    audits = Audit.objects.filter(kind="secret_given")
    assert {row.object for row in audits} == {"secret:hub", "secret:odd"}
    assert all(row.data["job"] == job.json()["id"] and row.project_id for row in audits)


@pytest.mark.usefixtures("stored")
def test_a_job_that_names_no_secret_gets_none(world: World, user: APIClient, host: Host) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    assert host.claim().claim["secrets"] == {}
    assert not Audit.objects.filter(kind="secret_given").exists()


@pytest.mark.usefixtures("stored")
def test_the_same_claim_again_has_them_again(user: APIClient, host: Host) -> None:
    submit(user, "hub")
    claim_id = "00000000-0000-4000-8000-000000000001"
    assert [host.claim(claim_id=claim_id).claim["secrets"] for _ in range(2)] == [{"HF_TOKEN": VALUE}] * 2


@pytest.mark.usefixtures("stored")
def test_a_secret_that_is_gone_or_unreadable_is_missing(user: APIClient, host: Host, environ: Environ) -> None:
    submit(user, "hub", "odd")
    ProjectSecret.objects.get(name="odd").delete()
    environ(secrets_keys=Fernet.generate_key().decode())
    claim = host.claim().claim
    assert (claim["secrets"], claim["missing_secrets"]) == ({}, ["hub", "odd"])


@pytest.mark.usefixtures("stored")
def test_an_unknown_or_a_doubled_secret_is_refused_at_submit(user: APIClient) -> None:
    user.put("/api/v1/secrets/other", {"kind": "hub", "value": "another-token"}, format="json")
    unknown, doubled = submit(user, "hub", "nope"), submit(user, "hub", "other")
    assert (unknown.status_code, list(unknown.json()["fields"])) == (400, ["params.secrets.1"])
    assert "HF_TOKEN" in doubled.json()["message"]
    assert not Job.objects.exists()


@pytest.mark.usefixtures("stored")
def test_the_secrets_of_another_project_are_unknown(stranger: APIClient) -> None:
    assert submit(stranger, "hub").json()["code"] == "unknown_secret"


def test_without_a_key_no_job_may_name_a_secret(user: APIClient, environ: Environ) -> None:
    environ(secrets_keys="")
    assert submit(user, "hub").json()["code"] == "secrets_off"
    assert submit(user).status_code == 201


@pytest.mark.usefixtures("stored")
def test_a_writer_may_use_a_secret_that_only_admins_may_set(user: APIClient) -> None:
    assert submit(person("default", "writer"), "hub").status_code == 201
    assert user.get("/api/v1/jobs?fields=params").json()["results"][0]["params"]["secrets"] == ["hub"]


@pytest.mark.parametrize(
    "endpoint",
    ["https://evil.example", "http://127.0.0.1:9", "https://huggingface.co.evil.example", "http://huggingface.co"],
)
def test_a_hub_that_the_operator_did_not_list_is_refused_at_submit(user: APIClient, endpoint: str) -> None:
    answer = submit(user, endpoint=endpoint)
    assert (answer.status_code, answer.json()["code"]) == (400, "hub_not_allowed")
    assert list(answer.json()["fields"]) == ["params.endpoint"]


def test_a_listed_hub_may_be_private_and_http(user: APIClient, environ: Environ) -> None:
    environ(hub_endpoints=f"{ENDPOINT}, http://10.0.0.5:8080/")
    answer = submit(user, endpoint="http://10.0.0.5:8080/")
    assert answer.status_code == 201
    assert answer.json()["params"]["endpoint"] == "http://10.0.0.5:8080"


def test_a_job_that_does_not_connect_needs_no_listed_hub(environ: Environ) -> None:
    environ(hub_endpoints="http://10.0.0.5:8080")
    hub_check(ImportModelParams(name="new"))
    with pytest.raises(Problem, match=r"'https://huggingface\.co' is not among the Hubs"):
        hub_check(ImportModelParams(name="new", repo="me/tiny"))


@pytest.mark.usefixtures("stored")
def test_a_value_in_the_parameters_is_no_name(user: APIClient) -> None:
    answer = submit(user, VALUE.upper())
    assert answer.status_code == 400
    assert not Attempt.objects.exists() and VALUE not in json.dumps(answer.json())
