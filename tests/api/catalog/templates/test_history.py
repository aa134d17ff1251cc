"""Templates keep every version; jobs say which one they came from."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.catalog.models import Template, TemplateVersion
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/templates"


@pytest.fixture
def body(world: World) -> dict[str, Any]:  # noqa: ARG001 the dataset and model that the template names
    params = {"adaptor_name": "shapes", "lora_r": 8}
    return {"name": "fast", "method": "image_lora", "params": params, "dataset": "shapes", "model": "base@1"}


@pytest.fixture
def changed(user: APIClient, body: dict[str, Any]) -> dict[str, Any]:
    """A template with two versions: what PUT answered."""
    user.post(PATH, body, format="json")
    answer = user.put(f"{PATH}/fast", {**body, "params": {**body["params"], "lora_r": 16}}, format="json")
    result: dict[str, Any] = answer.json()
    return result


def test_a_put_makes_a_version_and_the_old_one_stays(user: APIClient, changed: dict[str, Any]) -> None:
    assert (changed["version"], changed["latest"], changed["params"]["lora_r"]) == (2, 2, 16)
    first = user.get(f"{PATH}/fast@1").json()
    assert (first["version"], first["latest"], first["params"]["lora_r"]) == (1, 2, 8)
    assert user.get(f"{PATH}/fast@2").json() == user.get(f"{PATH}/fast").json() == changed
    assert user.get(f"{PATH}/fast@3").status_code == 404
    listed = user.get(f"{PATH}/fast/versions?limit=1").json()
    assert [(row["version"], row["actor"]) for row in listed["results"]] == [(2, "user:admin-of-default")]
    assert [row["version"] for row in user.get(listed["next"]).json()["results"]] == [1]


def test_the_same_content_again_and_a_new_name_make_no_version(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    assert user.put(f"{PATH}/fast", body, format="json").json()["version"] == 1
    assert user.put(f"{PATH}/fast", {**body, "name": "slow"}, format="json").json()["version"] == 1
    assert user.get(f"{PATH}/slow@1").status_code == 200
    assert TemplateVersion.objects.count() == 1


@pytest.mark.usefixtures("changed")
def test_restore_makes_an_old_version_the_newest(user: APIClient) -> None:
    restored = user.post(f"{PATH}/fast/restore", {"version": 1}, format="json").json()
    assert (restored["version"], restored["params"]["lora_r"]) == (3, 8)
    assert user.post(f"{PATH}/fast/restore", {"version": 9}, format="json").status_code == 404
    assert user.post(f"{PATH}/fast/restore", {"version": 3}, format="json").json()["version"] == 3
    data = Audit.objects.filter(object__startswith="template:").order_by("id").values_list("kind", flat=True)
    assert list(data) == ["template_created", "template_updated", "template_restored"]


@pytest.mark.usefixtures("changed")
def test_a_clone_starts_with_the_parameters_of_the_version(user: APIClient) -> None:
    cloned = user.post(f"{PATH}/fast@1/clone", {"name": "copy"}, format="json")
    assert (cloned.status_code, cloned.json()["version"], cloned.json()["params"]["lora_r"]) == (201, 1, 8)
    assert user.post(f"{PATH}/fast/clone", {"name": "copy"}, format="json").status_code == 409
    assert user.post(f"{PATH}/fast/clone", {"name": "import"}, format="json").json()["fields"].keys() == {"name"}


@pytest.mark.usefixtures("changed")
def test_a_job_says_which_version_it_came_from(user: APIClient) -> None:
    created = [user.post("/api/v1/jobs", {"template": ref}, format="json").json() for ref in ("fast", "fast@1")]
    assert [(job["template"], job["params"]["lora_r"]) for job in created] == [("fast@2", 16), ("fast@1", 8)]
    for query, count in (("fast", 2), ("fast@1", 1), ("fas", 0)):
        assert len(user.get(f"/api/v1/jobs?template={query}").json()["results"]) == count
    assert user.delete(f"{PATH}/fast").status_code == 204
    assert user.get(f"/api/v1/jobs/{created[0]['id']}").json()["template"] == "fast@2"


def test_validate_says_what_is_wrong_and_saves_nothing(user: APIClient, body: dict[str, Any]) -> None:
    good = user.post(f"{PATH}/validate", {key: body[key] for key in body if key != "name"}, format="json").json()
    assert (good["valid"], good["fields"], good["params"]["lora_r"]) == (True, {}, 8)
    assert good["params"]["adam_beta1"] > 0, "defaults are filled in"
    bad = user.post(f"{PATH}/validate", {**body, "params": {"adaptor_name": "x", "lora_r": 0}}, format="json")
    assert (bad.status_code, bad.json()["valid"], list(bad.json()["fields"])) == (200, False, ["params.lora_r"])
    assert user.post(f"{PATH}/validate", {"params": 3}, format="json").status_code == 400
    assert not Template.objects.exists()


def test_validate_says_what_a_submit_would(user: APIClient, body: dict[str, Any]) -> None:
    """timestep_shift does nothing with Stable Diffusion 1.x."""
    body["params"]["timestep_shift"] = 2.0
    verdict = user.post(f"{PATH}/validate", body, format="json").json()
    refused = user.post("/api/v1/jobs", {**body, "name": "x"}, format="json").json()
    assert (verdict["valid"], verdict["message"]) == (False, refused["message"])
    assert "timestep_shift" in verdict["message"]
    left_open = {key: value for key, value in body.items() if key != "model"}
    assert user.post(f"{PATH}/validate", left_open, format="json").json()["valid"], "a job may name another base"


@pytest.mark.usefixtures("changed")
def test_validate_of_a_template_sees_that_an_input_went(user: APIClient, world: World) -> None:
    assert user.post(f"{PATH}/fast/validate").json()["valid"]
    world.project.datasets.update(name="elsewhere")
    verdict = user.post(f"{PATH}/fast@1/validate").json()
    assert (verdict["valid"], list(verdict["fields"])) == (False, ["dataset"])


@pytest.mark.usefixtures("changed")
def test_a_stranger_reaches_no_version(user: APIClient, stranger: APIClient) -> None:
    for verb, path in (
        ("get", "fast@1"),
        ("get", "fast/versions"),
        ("get", "fast/export"),
        ("post", "fast/restore"),
        ("post", "fast/clone"),
        ("post", "fast/validate"),
    ):
        sent = {"version": 1} if path.endswith("restore") else {"name": "mine"}
        assert getattr(stranger, verb)(f"{PATH}/{path}", sent, format="json").status_code == 404, path
    assert user.get(f"{PATH}/fast").json()["version"] == 2


@pytest.mark.parametrize("count", [10, 100])
def test_lists_ask_as_often_for_many_as_for_few(
    user: APIClient, body: dict[str, Any], count: int, django_assert_max_num_queries: Any
) -> None:
    user.post(PATH, body, format="json")
    template = Template.objects.get()
    content = TemplateVersion.objects.get().content
    TemplateVersion.objects.bulk_create(
        TemplateVersion(template=template, version=2 + i, content=content, actor="x") for i in range(count)
    )
    Template.objects.bulk_create(Template(project=template.project, name=f"t{i}", **content) for i in range(count))
    for path in (f"{PATH}?limit=200", f"{PATH}/fast/versions?limit=200"):
        with django_assert_max_num_queries(4):
            assert len(user.get(path).json()["results"]) == count + 1
