"""Templates as YAML: what goes out comes in again, and nothing else does harm."""

from typing import Any

import pytest
import yaml
from rest_framework.test import APIClient

from api.catalog.models import Template
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/templates"
YAML = "application/yaml"


@pytest.fixture
def body(world: World) -> dict[str, Any]:  # noqa: ARG001 the dataset and model that the template names
    params = {"adaptor_name": "no", "learning_rate": 1e-5, "mixed_precision": "no", "trigger_word": "1:30"}
    return {"name": "fast", "method": "image_lora", "params": params, "dataset": "shapes", "priority": 5}


def imported(user: APIClient, text: str | bytes, query: str = "") -> Any:
    data = text.encode() if isinstance(text, str) else text
    return user.generic("POST", f"{PATH}/import{query}", data, content_type=YAML)


def test_an_export_imports_as_the_same_template(user: APIClient, body: dict[str, Any]) -> None:
    created = user.post(PATH, body, format="json").json()
    file = user.get(f"{PATH}/fast/export", headers={"Accept": YAML})
    assert (file.status_code, file["Content-Type"]) == (200, f"{YAML}; charset=utf-8")
    assert file["Content-Disposition"] == 'attachment; filename="fast.yaml"'
    assert file.content.startswith(b"# Anneal template fast@1\n")
    again = imported(user, file.content, "?name=copy")
    assert again.status_code == 201, again.json()
    same = ("method", "params", "dataset", "model", "adaptors", "resources", "pool", "priority")
    assert {key: again.json()[key] for key in same} == {key: created[key] for key in same}


def test_an_export_means_the_same_to_a_reader_of_yaml_1_1(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    result = yaml.safe_load(user.get(f"{PATH}/fast/export").content)
    assert result["params"]["adaptor_name"] == "no"
    assert result["params"]["trigger_word"] == "1:30"


def test_a_taken_name_is_replaced_only_when_asked(user: APIClient, body: dict[str, Any]) -> None:
    text = "name: fast\nmethod: image_lora\nparams: {adaptor_name: other}\n"
    user.post(PATH, body, format="json")
    assert imported(user, text).status_code == 409
    replaced = imported(user, text, "?replace=true")
    assert (replaced.status_code, replaced.json()["version"]) == (200, 2)
    assert imported(user, text, "?replace=maybe").status_code == 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [a", "line"),
        (b"a: &x 1\nb: *x\n", "line 1, column 4: anchors"),
        (b"a: !!python/object/apply:os.system [id]\n", "tag"),
        (b"a: !!binary aGk=\n", "tag"),
        (b"a: 1\na: 2\n", "line 2, column 1: the key 'a' stands there twice"),
        (b"- 1\n", "got list"),
        (b"1: 2\n", "expected `name: value` lines"),
        (b"name: \xff\n", "0xff at offset 6"),
        (b"a: " + b"[" * 50 + b"]" * 50, "levels"),
        (b"a: " + b"9" * 5000, "4300"),
        (b"? [a]\n: b\n", ""),
    ],
)
def test_a_file_that_is_no_template_is_refused_by_line(user: APIClient, text: bytes, message: str) -> None:
    answer = imported(user, text)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_yaml"), answer.content
    assert message in answer.json()["message"]
    assert not Template.objects.exists()


def test_a_fault_inside_is_named_by_its_path(user: APIClient, body: dict[str, Any]) -> None:
    answer = imported(user, yaml.safe_dump({**body, "params": {"adaptor_name": "x", "lora_r": 0}}))
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["params.lora_r"])
    unknown = imported(user, yaml.safe_dump({**body, "colour": 1}))
    assert list(unknown.json()["fields"]) == ["colour"]


@pytest.mark.parametrize("scheduler", [{}, {"lr_scheduler": "constant"}])
def test_an_idle_default_of_another_tools_form_is_left_out_with_a_note(
    user: APIClient, body: dict[str, Any], scheduler: dict[str, Any]
) -> None:
    idle = {**body["params"], **scheduler, "lr_warmup_steps": 50}
    answer = imported(user, yaml.safe_dump({**body, "params": idle}))
    assert answer.status_code == 201, answer.json()
    assert answer.json()["params"] == {**body["params"], **scheduler}
    (note,) = answer.json()["notes"]
    assert "lr_warmup_steps=50 was left out" in note
    again = imported(user, yaml.safe_dump({**body, "params": body["params"]}), "?replace=true")
    assert again.json()["notes"] == []
    direct = user.post(PATH, {**body, "name": "direct", "params": idle}, format="json")
    assert (direct.status_code, list(direct.json()["fields"])) == (400, ["params"])


def test_a_warm_up_that_does_something_or_that_a_person_chose_stays(user: APIClient, body: dict[str, Any]) -> None:
    params = {**body["params"], "lr_scheduler": "cosine", "lr_warmup_steps": 50}
    assert imported(user, yaml.safe_dump({**body, "params": params})).json()["params"] == params
    chosen = {**body["params"], "lr_scheduler": "constant", "lr_warmup_steps": 20}
    refused = imported(user, yaml.safe_dump({**body, "name": "chosen", "params": chosen}))
    assert refused.status_code == 400
    assert "lr_warmup_steps=20 does nothing" in refused.json()["message"]


def test_a_large_file_is_refused_unread(user: APIClient) -> None:
    answer = imported(user, b"#" * (64 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_json_is_taken_too(user: APIClient, body: dict[str, Any]) -> None:
    assert user.post(f"{PATH}/import", body, format="json").status_code == 201
