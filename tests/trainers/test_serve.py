"""Several jobs in one process: what goes in, what comes out, when it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from trainers.contract.errors import ReasonCode
from trainers.serve import line_parse

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys
from pathlib import Path
from trainers.contract.errors import ReasonCode, reason
from trainers.serve import serve

def run(line):
    print(f"job {line.out.name}", flush=True)
    os.system(f"echo child of {line.out.name}")
    if line.out.name == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    return reason(ReasonCode(line.out.name)) if line.out.name in list(ReasonCode) else None

sys.exit(serve(sys.stdin, run))
"""


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a process that serves these lines with jobs that end as the name of their `out` says."""

    def run(*lines: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", PROGRAM]
        text = "".join(f"{line}\n" for line in lines)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, input=text, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    return run


def job(name: str, **more: str) -> str:
    return json.dumps({"spec": "spec.json", "in": "in", "out": name, **more})


def test_a_line_is_json_or_three_paths() -> None:
    assert line_parse("a.json\tin dir\tout\n") == line_parse('{"spec": "a.json", "in": "in dir", "out": "out"}')
    for wrong in ("a.json in out", '{"spec": "a.json"}', job("x", more="1"), "[]"):
        with pytest.raises(ValueError, match="separated by tabs, got"):
            line_parse(wrong)


def test_each_job_gets_one_answer_and_prints_go_to_the_log(
    serving: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    ended = serving(job("one"), "s\ti\ttwo", "nonsense", job(ReasonCode.BAD_ADAPTOR), job("three"))
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [answer.get("out") for answer in answers] == ["one", "two", None, "bad_adaptor", "three"]
    assert [answer["code"] for answer in answers] == [0, 0, 2, 1, 0]
    assert "separated by tabs" in answers[2]["error"]
    assert "job one\nchild of one\njob two\n" in ended.stderr and ended.returncode == 0


def test_a_log_has_the_output_of_its_job_only(
    serving: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    ended = serving(job("one", log=str(log)), job("two"))
    assert log.read_text() == "job one\nchild of one\n"
    assert ended.stderr == "job two\nchild of two\n"


@pytest.mark.parametrize("code", [ReasonCode.INTERNAL, ReasonCode.OUT_OF_MEMORY])
def test_the_process_ends_after_an_internal_failure(
    serving: Callable[..., "subprocess.CompletedProcess[str]"], code: ReasonCode
) -> None:
    ended = serving(job(code), job("two"))
    assert [json.loads(line)["code"] for line in ended.stdout.splitlines()] == [1]
    assert ended.returncode == 1


def test_sigterm_ends_the_process_after_the_job(serving: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    ended = serving(job("term"), job("two"))
    assert len(ended.stdout.splitlines()) == 1 and ended.returncode == 0


def test_sigterm_ends_a_process_that_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    waiting = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert waiting.stdin is not None and waiting.stdout is not None
    waiting.stdin.write(job("one").encode() + b"\n")
    waiting.stdin.flush()
    assert json.loads(waiting.stdout.readline())["code"] == 0
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(PATIENCE_SECONDS) == 0
    waiting.stdin.close()
    waiting.stdout.close()
