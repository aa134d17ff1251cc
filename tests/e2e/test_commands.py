"""Commands against the real API that need no trainer."""

import json
from pathlib import Path

import pytest

from cli.commands.templates import KEYS
from cli.http import Client
from tests.e2e.conftest import Embedded


def test_a_password_becomes_a_saved_login(embedded: Embedded, tmp_path: Path) -> None:
    env = {"ANNEAL_URL": "", "ANNEAL_TOKEN": "", "XDG_CONFIG_HOME": str(tmp_path)}
    refused = embedded.run("login", embedded.login.url, "--user", "admin", "--password", "wrong", env=env)
    assert refused.exit_code == 1
    assert "password is wrong" in refused.stderr
    done = embedded.run("login", embedded.login.url, "--user", "admin", "--password", embedded.password, env=env)
    assert done.exit_code == 0, done.output
    assert embedded.run("job", "list", env=env).exit_code == 0


def test_a_template_goes_to_a_file_and_back(platform: Embedded, tmp_path: Path) -> None:
    file = tmp_path / "quick.yaml"
    platform.anneal("template", "export", "quick", "--output", str(file))
    before = platform.json("template", "show", "quick")
    again = platform.json("template", "import", str(file), "--name", "copy")
    assert {key: again[key] for key in KEYS if key != "name"} == {key: before[key] for key in KEYS if key != "name"}
    assert platform.json("template", "import", str(file), "--name", "copy")["params"] == before["params"]
    platform.anneal("template", "delete", "copy")
    assert "copy" not in [row["name"] for row in platform.json("template", "list")]


def test_a_wrong_parameter_is_named_with_what_is_allowed(platform: Embedded) -> None:
    done = platform.run("job", "submit", "--template", "quick", "--set", "lora_r=1000", "--json")
    assert done.exit_code == 1
    error = json.loads(done.stderr)
    assert "128" in error["fields"]["params.lora_r"][0]


def test_the_same_content_is_the_same_version(platform: Embedded, images: Path) -> None:
    assert platform.json("dataset", "add", "plain", str(images))["version"] == 1
    assert platform.json("dataset", "show", "plain")["versions"] == [1]


def test_a_job_comes_from_a_file_and_its_key_makes_it_one(platform: Embedded, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("template: quick\nname: from a file\npool: nobody\nparams:\n  learning_rate: 1e-3\n")
    submit = ("job", "submit", "--file", str(file), "--key", "once", "--set", "lora_r=16")
    job = platform.json(*submit)
    assert (job["name"], job["params"]["learning_rate"], job["params"]["lora_r"]) == ("from a file", 1e-3, 16)
    assert platform.json(*submit)["id"] == job["id"]
    assert "No worker serves the pool 'nobody'" in platform.json("job", "show", job["id"][:8])["waiting"]
    assert platform.json("job", "pause", job["id"])["state"] == "paused"
    assert platform.json("job", "resume", job["id"])["state"] == "queued"
    assert platform.json("job", "cancel", job["id"])["state"] == "cancelled"


def test_control_of_a_job_that_does_not_run_is_refused(platform: Embedded) -> None:
    job = platform.json("job", "submit", "--template", "quick", "--pool", "nobody")["id"]
    assert "queued" in platform.run("job", "control", job, "save_now").stderr
    platform.anneal("job", "cancel", job)


def test_lists_show_every_page(platform: Embedded, client: Client) -> None:
    created = [platform.json("job", "submit", "--template", "quick", "--pool", "nobody")["id"] for _ in range(3)]
    listed = [job["id"] for job in client.pages("jobs", state="queued", limit=2)]
    assert listed == created[::-1]
    for job in created:
        platform.anneal("job", "cancel", job)


@pytest.mark.parametrize("command", ["method list", "method show image_lora", "dataset list", "model show tiny"])
def test_tables_and_json_both_work(platform: Embedded, command: str) -> None:
    assert platform.anneal(*command.split())
    assert platform.json(*command.split())
