"""`anneal dataset list`: datasets that commands fill by themselves are shown on request only."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from cli.commands.conversions import ADAPTOR_IMPORTS
from cli.main import app
from cli.versions import SAMPLING_INPUTS
from tests.cli.small_server import Answer, serving

NAMES = ("dogs", SAMPLING_INPUTS, ADAPTOR_IMPORTS)


def answer(path: str, _: dict[str, str]) -> Answer:
    row = {"version": 1, "num_files": 1, "size_bytes": 1, "created": "2026-01-01T00:00:00Z"}
    names = [name for name in NAMES if path.partition("search=")[2] in name]
    body = {"results": [{"name": name, **row} for name in names], "next": None, "previous": None}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


@pytest.fixture(autouse=True)
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serving(answer) as url:
        monkeypatch.setenv("ANNEAL_URL", url)
        monkeypatch.setenv("ANNEAL_TOKEN", "t")
        yield


def listed(*arguments: str) -> set[str]:
    result = CliRunner().invoke(app, ["dataset", "list", *arguments])
    assert result.exit_code == 0, result.output
    return {name for name in NAMES if name in result.output}


def test_a_list_of_datasets_leaves_out_what_commands_fill() -> None:
    assert listed() == {"dogs"}
    assert listed("--all") == set(NAMES)
    assert listed("--json") == set(NAMES), "programs get all of them"
    assert listed("--search", "imports") == {ADAPTOR_IMPORTS}
