"""Names that would act on a terminal are refused where they are stored."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.api.actors import person
from tests.api.host import Host
from tests.api.world import World

pytestmark = pytest.mark.django_db
ACTING = ("\x1b]52;c;x\x07", "\x9b31m", "a\nb", "a\tb", "\x7f", "\u202egnp.exe", "\u2066", "\u2028", "\x85")


@pytest.mark.parametrize("text", ACTING)
def test_no_name_may_have_control_characters(world: World, user: APIClient, host: Host, text: str) -> None:
    job = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    admin = person("default", "admin")
    evil = f"x{text}y"
    params, file = world.request["params"], {"size": 1, "sha256": "0" * 64}
    answers: list[Any] = [
        user.post("/api/v1/jobs", {**world.request, "name": evil}, format="json"),
        user.post(f"/api/v1/jobs/{job}/rerun", {"name": evil}, format="json"),
        user.patch(f"/api/v1/jobs/{job}", {"labels": [evil]}, format="json"),
        user.post("/api/v1/datasets", {"name": evil}, format="json"),
        user.post("/api/v1/models", {"name": evil}, format="json"),
        user.post("/api/v1/templates", {"name": evil, "method": "image_lora", "params": {}}, format="json"),
        admin.post("/api/v1/tokens", {"name": evil}, format="json"),
        admin.post("/api/v1/users", {"username": evil}, format="json"),
        host.hello(host=evil),
        host.hello(pools=[evil]),
        host.hello(labels={"owner": evil}),
        host.hello(labels={evil: "lab"}),
        host.claim_post(labels={"owner": evil}),
        user.post("/api/v1/jobs", {**world.request, "params": params | {"trigger_word": evil}}, format="json"),
        user.post("/api/v1/datasets", {"name": "d", "files": [file | {"path": f"a/{evil}.png"}]}, format="json"),
    ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert "U+" in answers[0].json()["message"]


def test_notes_may_have_lines_and_tabs_but_no_escapes(world: World, user: APIClient) -> None:
    job = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    assert user.patch(f"/api/v1/jobs/{job}", {"notes": "a\r\n\tb שלום\u200f"}, format="json").status_code == 200
    assert user.patch(f"/api/v1/jobs/{job}", {"notes": "a\x1b[2J"}, format="json").status_code == 400
