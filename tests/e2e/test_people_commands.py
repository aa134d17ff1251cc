"""Projects, members, people, tokens, secrets and the audit by command, against the real API."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.e2e.conftest import Embedded


def anneal_as(platform: Embedded, token: str, *command: str, typed: str | None = None) -> Result:
    """One command with another token, and what is typed at its prompts."""
    return CliRunner().invoke(app, command, env={**platform.env, "ANNEAL_TOKEN": token}, input=typed)


def test_a_project_is_made_and_shown(embedded: Embedded) -> None:
    assert embedded.json("project", "create", "of-commands")["role"] == "admin"
    assert "of-commands" in [row["name"] for row in embedded.json("project", "list")]
    assert embedded.json("project", "show")["name"] == "default"
    assert "already" in embedded.run("project", "create", "of-commands").stderr


def test_a_person_is_made_logs_in_changes_the_password_and_is_taken_out(embedded: Embedded, tmp_path: Path) -> None:
    created = embedded.json("user", "create", "anna@example.org", "--role", "reader")
    login = ("login", embedded.login.url, "--user", "anna@example.org", "--password", created["password"])
    home = {**embedded.env, "ANNEAL_URL": "", "ANNEAL_TOKEN": "", "XDG_CONFIG_HOME": str(tmp_path)}
    assert embedded.run(*login, env=home).exit_code == 0
    assert embedded.run("project", "create", "of-anna", env=home).exit_code == 1
    changed = ("user", "password", "--old", created["password"])
    done = CliRunner().invoke(app, changed, env=home, input="another-long-one\nanother-long-one\n")
    assert done.exit_code == 0, done.output
    assert embedded.run("job", "list", env=home).exit_code == 1, "the login ended with the old password"
    assert embedded.json("member", "set", "anna@example.org", "writer")["role"] == "writer"
    assert {"user": "anna@example.org", "role": "writer", "accepted": True} in embedded.json("member", "list")
    assert "anna@example.org" in embedded.anneal("user", "list")
    embedded.anneal("member", "remove", "anna@example.org")
    assert "anna@example.org" not in embedded.anneal("member", "list")


def test_somebody_in_no_project_joins_one_by_logging_in(embedded: Embedded, tmp_path: Path) -> None:
    admin, guest = (embedded.json("user", "create", name, "--role", "admin") for name in ("boss@a.org", "guest@a.org"))
    embedded.anneal("member", "remove", "guest@a.org")
    homes = [{**embedded.env, "ANNEAL_URL": "", "ANNEAL_TOKEN": "", "XDG_CONFIG_HOME": str(tmp_path / n)} for n in "ab"]

    def login(who: dict[str, str], home: dict[str, str], *more: str) -> Result:
        names = ("--user", who["username"], "--password", who["password"])
        return embedded.run("login", embedded.login.url, *names, *more, env=home)

    assert login(admin, homes[0]).exit_code == 0
    assert embedded.run("member", "set", "guest@a.org", "reader", env=homes[0]).exit_code == 0
    refused = login(guest, homes[1])
    assert refused.exit_code == 1 and "--join default" in refused.stderr
    joined = login(guest, homes[1], "--join", "default")
    assert joined.exit_code == 0 and "project default" in joined.output


def test_a_token_is_shown_once_and_revoked(embedded: Embedded) -> None:
    created = embedded.json("token", "create", "for a script", "--scope", "read", "--days", "7")
    assert anneal_as(embedded, created["token"], "job", "list").exit_code == 0
    assert anneal_as(embedded, created["token"], "secret", "list").exit_code == 1
    assert created["token"] not in embedded.anneal("token", "list", "--json")
    embedded.anneal("token", "revoke", created["id"][:13])
    assert anneal_as(embedded, created["token"], "job", "list").exit_code == 1
    assert "found 0" in embedded.run("token", "revoke", "zz").stderr


def test_a_token_for_workers_is_no_login(embedded: Embedded) -> None:
    created = embedded.json("token", "create-worker", "another host")
    assert created["token"].startswith("anw_")
    assert created["expires_at"] is None
    assert anneal_as(embedded, created["token"], "job", "list").exit_code == 1
    embedded.anneal("token", "revoke", created["id"])


def test_a_logout_ends_the_token_and_forgets_it(embedded: Embedded, tmp_path: Path) -> None:
    home = {"ANNEAL_URL": "", "ANNEAL_TOKEN": "", "XDG_CONFIG_HOME": str(tmp_path)}
    login = ("login", embedded.login.url, "--user", "admin", "--password", embedded.password, "--project", "default")
    assert embedded.run(*login, env=home).exit_code == 0
    saved = tmp_path / "anneal" / "config.json"
    token = json.loads(saved.read_text())["token"]
    assert embedded.run("logout", env=home).exit_code == 0
    assert not saved.exists()
    assert anneal_as(embedded, token, "job", "list").exit_code == 1


def test_a_secret_is_read_from_standard_input_and_never_shown(embedded: Embedded) -> None:
    value = "hf_0123456789abcdef"
    done = anneal_as(embedded, embedded.login.token, "secret", "set", "hub", "--kind", "hub", typed=f"{value}\n")
    assert done.exit_code == 0, done.output
    assert "HF_TOKEN" in done.stdout
    listed = embedded.anneal("secret", "list", "--json")
    assert [row["name"] for row in json.loads(listed)] == ["hub"]
    assert value not in listed + done.output
    embedded.anneal("secret", "delete", "hub")
    assert embedded.json("secret", "list") == []


@pytest.mark.parametrize("option", [("--actor", "user:admin"), ("--most", "3")])
def test_the_audit_says_who_did_what(embedded: Embedded, option: tuple[str, str]) -> None:
    embedded.anneal("token", "revoke", embedded.json("token", "create", "audited")["id"])
    rows = embedded.json("audit", *option)
    assert rows
    assert rows[0]["actor"] == "user:admin"
    assert len(rows) <= 50 if option[0] == "--actor" else len(rows) == 3
