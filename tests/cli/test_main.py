"""The whole command: what it prints where, and its exit codes."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pytest
from typer.testing import CliRunner, Result

from cli.main import ENTRIES, Entry, app
from docs.commands import command_tree, commands
from tests.cli.small_server import serving

REFUSAL = {
    "code": "invalid",
    "message": "lora_r: too big",
    "hint": "Lower it.",
    "fields": {"params.lora_r": ["too big"]},
}
METHOD = {
    "method": "image_lora",
    "summary": "Train.",
    "requires": [],
    "product": "adaptor",
    "schema": {
        "required": ["adaptor_name"],
        "properties": {
            "lora_r": {"type": "integer", "minimum": 4, "maximum": 256, "default": 8, "description": "Rank."},
            "adaptor_name": {"type": "string"},
            "use_ema": {"type": "boolean", "default": False},
        },
    },
}


class Anneal(Protocol):
    def __call__(self, *command: str, url: str = "") -> Result: ...


@pytest.fixture
def anneal(tmp_path: Path) -> Anneal:
    def run(*command: str, url: str = "") -> Result:
        env = {"XDG_CONFIG_HOME": str(tmp_path), "ANNEAL_URL": url, "ANNEAL_TOKEN": "ant_x" if url else ""}
        return CliRunner().invoke(app, command, env=env)

    return run


def test_a_refusal_is_one_sentence_and_a_hint(anneal: Anneal) -> None:
    with serving(lambda *_: (400, {}, json.dumps(REFUSAL).encode())) as url:
        done = anneal("job", "submit", "--template", "t", url=url)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "error: lora_r: too big\nLower it.\n")


def test_with_json_a_refusal_is_json_too(anneal: Anneal) -> None:
    with serving(lambda *_: (400, {}, json.dumps(REFUSAL).encode())) as url:
        done = anneal("job", "submit", "--template", "t", "--json", url=url)
    assert json.loads(done.stderr) == REFUSAL


def test_with_json_a_wrong_command_line_is_json_too(anneal: Anneal) -> None:
    for command, message in (
        (("job", "shw"), "No such command 'shw'. Did you mean 'show'?"),
        (("job", "show"), "'job'"),
    ):
        done = anneal(*command, "--json")
        reported = json.loads(done.stderr)
        assert (done.exit_code, done.stdout, reported["code"]) == (2, "", "usage")
        assert message in reported["message"] and "--help` says how" in reported["hint"]
    assert "Usage: " in anneal("job", "shw").stderr


def test_every_fault_of_an_upload_is_a_line(anneal: Anneal) -> None:
    faults = [f"captions.jsonl line {line}: there is no a{line}.png" for line in (2, 5, 9)]
    refusal = REFUSAL | {"message": f"{faults[0]} (and 2 more)", "fields": {"files": faults}}
    with serving(lambda *_: (400, {}, json.dumps(refusal).encode())) as url:
        done = anneal("job", "submit", "--template", "t", url=url)
    head, *more = done.stderr.splitlines()
    assert head == f"error: {refusal['message']}" and more == [
        *(f"  files: {fault}" for fault in faults[1:]),
        "Lower it.",
    ]


def test_a_row_of_a_table_is_a_line_and_whole(anneal: Anneal) -> None:
    jobs = [{"id": f"{n}" * 36, "name": "a long name " * 12, "method": "image_lora", "state": "failed"} for n in (1, 2)]
    answer = json.dumps({"results": [{**job, "labels": [], "created": "now"} for job in jobs], "next": None}).encode()
    with serving(lambda *_: (200, {}, answer)) as url:
        done = anneal("job", "list", url=url)
    head, *rows = done.stdout.splitlines()
    assert head.startswith("id") and [row.startswith(f"{n}" * 8) for n, row in enumerate(rows, 1)] == [True, True]
    assert all(jobs[0]["name"] in row for row in rows)


def test_a_parameter_is_shown_with_what_it_can_be_and_what_it_means(anneal: Anneal) -> None:
    with serving(lambda *_: (200, {}, json.dumps(METHOD).encode())) as url:
        done = anneal("method", "show", "image_lora", url=url)
    assert "\nlora_r  integer, >= 4 <= 256, default 8\n    Rank.\nadaptor_name  string, required\n" in done.stdout
    assert "use_ema  boolean, default false\n" in done.stdout


def test_the_version_is_that_of_the_package(anneal: Anneal) -> None:
    assert anneal("--version").stdout == f"anneal {version('anneal')}\n"


def test_an_answer_that_is_no_json_is_still_a_sentence(anneal: Anneal) -> None:
    with serving(lambda *_: (502, {}, b"<html>")) as url:
        done = anneal("job", "list", url=url)
    assert done.exit_code == 1
    assert "/api/v1/jobs answered 502" in done.stderr


def test_nobody_there_is_exit_code_4(anneal: Anneal) -> None:
    done = anneal("job", "list", url="http://127.0.0.1:9")
    assert done.exit_code == 4
    assert "does not answer" in done.stderr


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_folder_in_the_place_of_a_file_is_a_sentence(
    anneal: Anneal, tmp_path: Path, as_json: tuple[str, ...]
) -> None:
    with serving(lambda *_: (200, {}, b"{}")) as url:
        done = anneal("adaptor", "import", str(tmp_path), "--model", "tiny", *as_json, url=url)
    assert done.exit_code == 1 and "got the folder" in done.stderr and str(tmp_path) in done.stderr.replace("\n", "")


def test_without_a_login_the_usage_is_wrong(anneal: Anneal) -> None:
    assert anneal("job", "list").exit_code == 2


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3), ("paused", 3)])
def test_watch_exits_with_the_outcome_of_the_job(anneal: Anneal, state: str, code: int) -> None:
    job = {"id": "0" * 8, "name": "n", "state": state, "reason": {"message": "Out of memory.", "hint": "Less."}}
    event = {"seq": 1, "kind": "warning", "data": {"message": "rough"}}
    stream = b"data: " + json.dumps(event).encode() + b"\n\n"

    with serving(lambda path, _: (200, {}, stream if path.endswith("/stream") else json.dumps(job).encode())) as url:
        plain = anneal("job", "watch", "00000000", url=url)
        lines = anneal("job", "watch", "00000000", "--json", url=url)
    assert plain.exit_code == code
    assert plain.stdout == f"job n {state}: Out of memory. Less.\n"
    assert plain.stderr == "warning: rough\n"
    assert lines.exit_code == code
    assert [json.loads(line) for line in lines.stdout.splitlines()] == [event, job]


def test_every_command_speaks_json() -> None:
    every = dict(commands(command_tree(), "anneal"))
    assert not [path for path, command in every.items() if not any("--json" in one.opts for one in command.params)]


def test_the_command_runs_as_a_process(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "cli", "--help"], env=env, capture_output=True, text=True, check=True)
    assert "template" in done.stdout


def modules_of(*command: str, env: dict[str, str] | None = None) -> set[str]:
    """What a new Python has imported once `anneal command...` has ended."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import cli.__main__"
    done = subprocess.run([sys.executable, "-c", code, *command], env={**os.environ, **(env or {})}, **CAPTURED)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


CAPTURED: Any = {"capture_output": True, "text": True, "check": False}
HTTP, TABLES, YAML, RETRIES = "httpx", "rich.progress", "yaml", "tenacity"


def test_the_help_imports_no_command_and_no_http() -> None:
    imported = modules_of("--help")
    assert imported & {HTTP, TABLES, YAML, RETRIES, "pydantic", "cli.output"} == set()
    assert [name for name in imported if name.startswith("cli.commands.")] == []


def test_a_list_imports_its_command_alone(tmp_path: Path) -> None:
    with serving(lambda *_: (200, {}, b'{"results": [], "next": null}')) as url:
        imported = modules_of("job", "list", env={"ANNEAL_URL": url, "ANNEAL_TOKEN": "x", "HOME": str(tmp_path)})
    assert HTTP in imported
    assert imported & {RETRIES, "pygments", "cli.uploads", "cli.platform", "formats", "rich.markdown"} == set()
    commands = {name.removeprefix("cli.commands.") for name in imported if name.startswith("cli.commands.")}
    assert commands == {"jobs", "job_changes", "job_results"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_list_of_commands_says_what_each_says_itself(entry: Entry) -> None:
    command = entry.load()
    assert " ".join(command.help.split("\n\n")[0].split()) == entry.summary
    assert (command.name, command.rich_help_panel) == (entry.name, entry.panel)
