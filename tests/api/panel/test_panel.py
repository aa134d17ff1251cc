"""The admin panel through Django's client: everything can be seen, nothing can be edited, buttons call the services."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rest_framework.test import APIClient

from api.accounts.models import Invitation, Membership, Project, Token
from api.accounts.tokens import token_find, user_token_create
from api.audit.models import Audit
from api.jobs.models import Event, Job, Worker
from api.panel.admin import INTERNAL, OURS
from tests.api.actors import person
from tests.api.conftest import host_make
from tests.api.host import Agent, Host, step_event
from tests.api.jobs.test_claim import submit
from tests.api.world import Environ, World, world_make

pytestmark = pytest.mark.django_db

ALL = [model for label in OURS for model in apps.get_app_config(label).get_models()]
MODELS = [model for model in ALL if model._meta.model_name not in INTERNAL]
LABELS = [model._meta.label_lower for model in MODELS]
SECRETS = ("token_hash", "sha256:", "ciphertext")


@pytest.fixture
def root(db: None) -> Client:  # noqa: ARG001 fixtures need fixtures
    return root_client()


def root_client() -> Client:
    user = get_user_model().objects.create_superuser("root", password="a long password")
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    """A running job with events, a curve, a log and a checkpoint."""
    return agent_make(world, user, host)


def agent_make(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    agent = host.claim()
    agent.start()
    agent.events(step_event(2, 1))
    agent.log(0, b"a line\n")
    agent.checkpoint(1)
    return agent


def listed(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page(record: Any) -> str:
    return reverse(f"admin:{record._meta.app_label}_{record._meta.model_name}_change", args=[record.pk])


def messages_of(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_every_model_of_ours_is_in_the_panel() -> None:
    assert [model for model in MODELS if not admin.site.is_registered(model)] == []


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.usefixtures("agent")
def test_each_list_and_each_page_opens_and_can_be_searched(label: str, root: Client) -> None:
    model: Any = apps.get_model(label)
    assert root.get(listed(model), {"q": "a"}).status_code == 200
    for record in model.objects.all()[:1]:
        assert root.get(listed(model), {"q": str(record.pk)}).status_code in (200, 302)
        text = root.get(page(record)).content.decode()
        assert "<form" in text and not any(word in text for word in SECRETS)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.usefixtures("agent")
def test_no_record_is_added_changed_or_deleted_by_hand(label: str, root: Client) -> None:
    model: Any = apps.get_model(label)
    assert root.post(listed(model) + "add/", {}).status_code == 403
    for record in model.objects.all()[:1]:
        assert root.post(page(record), {"name": "changed"}).status_code == 403
        assert root.post(page(record).removesuffix("change/") + "delete/", {"post": "yes"}).status_code == 403


def test_strangers_are_sent_to_the_login(client: Client) -> None:
    get_user_model().objects.create_user("member", password="a long password")
    assert client.login(username="member", password="a long password")
    assert client.get("/admin/").status_code == 302
    assert Client().get(listed(Job)).headers["Location"].startswith("/admin/login/")


def test_the_login_counts_tries_as_the_api_does(client: Client, environ: Environ) -> None:
    environ(logins_per_minute_account=2)
    get_user_model().objects.create_superuser("root", password="a long password")
    for _ in range(2):
        client.post("/admin/login/", {"username": "root", "password": "wrong"})
    answer = client.post("/admin/login/", {"username": "ROOT", "password": "a long password"})
    assert answer.status_code == 200 and "Too many tries" in answer.content.decode()


@pytest.mark.usefixtures("agent")
def test_a_job_is_cancelled_from_its_page_after_a_question(root: Client) -> None:
    job = Job.objects.get()
    button = reverse("admin:jobs_job_cancel_this", args=[job.pk])
    confirmation = root.get(button)
    assert "confirmed" in confirmation.content.decode()
    job.refresh_from_db()
    assert job.stop_requested == ""
    done = root.post(button, {"confirmed": "yes"}, follow=True)
    assert messages_of(done) == ["first is asked to stop."]
    assert Audit.objects.filter(actor="user:root", kind="job_cancel_requested", object=f"job:{job.pk}").count() == 1


def test_the_list_confirms_a_cancel_and_reports_refusals(
    root: Client, world: World, user: APIClient, host: Host
) -> None:
    done, waiting = submit(user, world, name="done"), submit(user, world, name="waiting")
    assert host.claim().finish().status_code == 200
    chosen = {"action": "cancel_chosen", "_selected_action": [done, waiting]}
    assert "waiting" in root.post(listed(Job), chosen).content.decode()
    assert Job.objects.get(pk=waiting).state == "queued"
    answer = root.post(listed(Job), {**chosen, "confirmed": "yes"}, follow=True)
    assert Job.objects.get(pk=waiting).state == "cancelled"
    assert any("done" in line and "succeeded, so it cannot become cancelled" in line for line in messages_of(answer))


def test_pause_and_requeue(root: Client, world: World, user: APIClient) -> None:
    job = submit(user, world)
    for button, state in (("pause", "paused"), ("requeue", "queued")):
        root.post(listed(Job), {"action": f"{button}_chosen", "_selected_action": [job]})
        assert Job.objects.get(pk=job).state == state
    assert list(Audit.objects.filter(actor="user:root").values_list("kind", flat=True)) == ["job_paused", "job_queued"]


def test_a_worker_is_drained_and_a_token_revoked(root: Client, host: Host) -> None:
    worker = Worker.objects.get()
    root.post(reverse("admin:jobs_worker_drain_this", args=[worker.pk]))
    worker.refresh_from_db()
    assert worker.draining
    token = Token.objects.get()
    root.post(reverse("admin:accounts_token_revoke_this", args=[token.pk]))
    assert host.heartbeat().status_code == 401
    kinds = Audit.objects.filter(actor="user:root").values_list("kind", flat=True)
    assert {"worker_drain", "token_revoked"} <= set(kinds)


@pytest.mark.usefixtures("user")
def test_a_member_gets_a_role_and_the_last_admin_keeps_it(root: Client, project: Project) -> None:
    person("default", "reader")
    first, second = project.memberships.order_by("pk")
    root.post(reverse("admin:accounts_membership_writer_this", args=[second.pk]))
    second.refresh_from_db()
    assert second.role == "writer"
    answer = root.post(reverse("admin:accounts_membership_leave_this", args=[first.pk]), follow=True)
    assert "The last admin of a project stays its admin" in messages_of(answer)[-1] and project.memberships.count() == 2
    root.post(reverse("admin:accounts_membership_leave_this", args=[second.pk]))
    assert list(project.memberships.all()) == [first]


def test_a_viewer_sees_but_has_no_buttons(world: World, user: APIClient) -> None:
    viewer = get_user_model().objects.create_user("viewer", password="a long password", is_staff=True)
    viewer.user_permissions.set(apps.get_model("auth.Permission").objects.filter(codename="view_job"))
    client = Client()
    client.force_login(viewer)
    job = submit(user, world)
    assert client.get(listed(Job)).status_code == 200
    assert client.get(listed(Worker)).status_code == 403
    assert client.post(reverse("admin:jobs_job_cancel_this", args=[job])).status_code == 403
    client.post(listed(Job), {"action": "cancel_chosen", "_selected_action": [job], "confirmed": "yes"})
    assert Job.objects.get(pk=job).state == "queued"


def test_a_new_password_is_audited_without_it_and_ends_logins(root: Client, project: Project) -> None:
    person = get_user_model().objects.create_user("person", password="an old password")
    url = reverse("admin:auth_user_password_change", args=[person.pk])
    old, _ = user_token_create(user=person, project=project, name="login", login=True)
    word = "a-new-Secret-word-77"
    assert root.post(url, {"password1": word, "password2": word, "usable_password": "true"}).status_code == 302
    person.refresh_from_db()
    assert person.check_password(word)
    assert token_find(old, Token.Kind.USER) is None
    row = Audit.objects.get(object=f"user:{person.pk}")
    assert (row.actor, row.kind) == ("user:root", "user_changed")
    assert "password" in str(row.data) and word not in str(row.data)


@pytest.mark.usefixtures("agent")
def test_the_dashboard_shows_states_queue_workers_and_infrastructure(root: Client) -> None:
    text = root.get("/admin/").content.decode()
    for word in ("running", "Queue by pool", "testhost", "1 of 1", connection.vendor, "workers poll", "Storage"):
        assert word in text, word


def queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as observed:
        assert client.get(url).status_code == 200
    return len(observed)


@pytest.fixture(scope="module")
def queries_of_few_and_many(
    django_db_setup: None,  # noqa: ARG001 fixtures need fixtures
    django_db_blocker: Any,
) -> dict[str, tuple[int, int]]:
    """By label, the queries of its list for one job, and for five."""
    urls = {"dashboard": "/admin/", **{label: listed(apps.get_model(label)) for label in LABELS}}
    with django_db_blocker.unblock(), transaction.atomic():
        world, user = world_make(Project.objects.create(name="default")), person("default", "admin")
        root = root_client()
        agent_make(world, user, host_make())
        few = {label: queries(root, url) for label, url in urls.items()}
        for number in range(4):
            submit(user, world, name=f"more {number}")
            again = host_make().claim()
            again.start()
            again.checkpoint(1)
            again.finish()
        assert Event.objects.count() > 10
        many = {label: queries(root, url) for label, url in urls.items()}
        transaction.set_rollback(True)
    return {label: (few[label], many[label]) for label in urls}


@pytest.mark.parametrize("label", [*LABELS, "dashboard"])
def test_a_list_costs_the_same_however_long_it_is(
    label: str, queries_of_few_and_many: dict[str, tuple[int, int]]
) -> None:
    few, many = queries_of_few_and_many[label]
    assert many <= few + 1 < 25


def test_somebody_in_no_project_logs_in_to_the_panel_and_answers_an_invitation() -> None:
    user = get_user_model().objects.create_superuser("lone", password="a long password")
    other = get_user_model().objects.create_user("other")
    invitations = [
        Invitation.objects.create(project=Project.objects.create(name=name), user=whose, role="writer", invited_by="x")
        for name, whose in (("a", user), ("b", user), ("c", other))
    ]
    client = Client()
    credentials = {"username": "lone", "password": "a long password"}
    assert client.post(reverse("admin:login"), credentials).status_code == 302
    assert "Accept" in client.get(page(invitations[0])).content.decode()
    assert "Accept" not in client.get(page(invitations[2])).content.decode(), "that of somebody else"
    chosen = {"action": "accept_chosen", "_selected_action": [invitations[0].pk, invitations[2].pk]}
    html = client.post(listed(Invitation), chosen, follow=True).content.decode()
    assert "Only other may answer this invitation." in html and "Accept: done for 1 of 2, refused for 1." in html
    client.post(f"{page(invitations[1]).removesuffix('change/')}decline/", {"confirmed": "yes"})
    assert [membership.project.name for membership in Membership.objects.filter(user=user)] == ["a"]
    assert [invitation.user.get_username() for invitation in Invitation.objects.all()] == ["other"]


def test_a_list_offers_no_button_to_somebody_who_may_press_none(world: World, user: APIClient) -> None:
    submit(user, world)
    looker = get_user_model().objects.create_user("looker", is_staff=True)
    looker.user_permissions.add(*Permission.objects.filter(codename__in=("view_job", "view_token", "view_worker")))
    client = Client()
    client.force_login(looker)
    for model in (Job, Token, Worker):
        answer = client.get(listed(model))
        assert answer.status_code == 200 and "_chosen" not in answer.content.decode()
    looker.user_permissions.add(Permission.objects.get(codename="change_job"))
    client.force_login(get_user_model().objects.get(pk=looker.pk))
    assert "cancel_chosen" in client.get(listed(Job)).content.decode()
