"""What a real bash offers at TAB."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.small_server import Answer, serving
from tests.patience import PATIENCE_SECONDS

ANNEAL = Path(sys.executable).parent / "anneal"
TAB = """
eval "$SOURCE"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_anneal_completion anneal
printf '%s\\n' "${COMPREPLY[@]}"
"""
LISTS = {
    "datasets": [{"name": "dogs"}, {"name": "dogs-and-cats"}, {"name": "birds"}],
    "adaptors": [{"name": "dog", "trigger_word": "zqx"}, {"name": "dog", "trigger_word": "zqx"}],
    "jobs": [{"id": "aaaabbbbcccc", "name": "one"}, {"id": "aaaaddddcccc", "name": "two"}],
    "workers": [{"id": "12345678-1", "host": "gpu1"}],
    "methods": [{"method": "image_lora", "summary": "s"}],
}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None or not ANNEAL.exists(), reason="needs bash and `anneal`")


def tab(*words: str, url: str = "", token: str = "ant_x", home: Path = Path("/nonexistent")) -> list[str]:
    """What bash offers for the last of `words`."""
    env = {**os.environ, "ANNEAL_URL": url, "ANNEAL_TOKEN": token, "XDG_CONFIG_HOME": str(home)}
    env |= {"PATH": f"{ANNEAL.parent}:{env['PATH']}", "SOURCE": bash_source()}
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "anneal", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, ""), "TAB never fails and never prints"
    return done.stdout.split()


@functools.cache
def bash_source() -> str:
    """What the shell evaluates when it starts."""
    env = {**os.environ, "_ANNEAL_COMPLETE": "source_bash"}
    return subprocess.run([ANNEAL], env=env, capture_output=True, text=True, check=True).stdout


def lists(path: str, _: dict[str, str]) -> Answer:
    collection = path.split("?")[0].rsplit("/", 1)[1]
    return 200, {}, json.dumps({"results": LISTS[collection], "next": None}).encode()


def test_commands_are_offered() -> None:
    assert tab("anneal", "work") == ["worker"]
    assert {"list", "show"} <= set(tab("anneal", "dataset", ""))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("dataset", "show", "dog"), ["dogs", "dogs-and-cats"]),
        (("adaptor", "pull", "d"), ["dog"]),
        (("job", "cancel", "aaaab"), ["aaaabbbb"]),
        pytest.param(("worker", "drain", ""), ["12345678"], marks=pytest.mark.slow),
        pytest.param(("method", "show", "im"), ["image_lora"], marks=pytest.mark.slow),
        (("template", "create", "t", "--method", "i"), ["image_lora"]),
        pytest.param(("job", "submit", "--dataset", "bi"), ["birds"], marks=pytest.mark.slow),
    ],
)
def test_names_are_asked_of_the_api(typed: tuple[str, ...], offered: list[str]) -> None:
    with serving(lists) as url:
        assert tab("anneal", *typed, url=url) == offered


def test_without_a_login_no_name_is_offered(tmp_path: Path) -> None:
    assert tab("anneal", "dataset", "show", "", token="", home=tmp_path) == []


def test_a_refusal_offers_nothing() -> None:
    with serving(lambda *_: (401, {}, b"{}")) as url:
        assert tab("anneal", "dataset", "show", "", url=url) == []


def test_an_api_that_never_answers_does_not_hang_the_shell() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert tab("anneal", "dataset", "show", "", url=f"http://127.0.0.1:{silent.getsockname()[1]}") == []
