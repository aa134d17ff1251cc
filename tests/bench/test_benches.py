"""The benches run to their table, in small: real processes, a few samples."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
import torch

from bench import command_line, image_accelerator, image_loop, sampling_text
from bench.measure import REPOSITORY, Row, milliseconds, percentile, table
from bench.overhead import comparison
from bench.soak import Plan, job_names


class RunHere(Protocol):
    def __call__(self, main: Callable[[], int | None], *arguments: str) -> tuple[int | None, str]:
        """Its exit status, and what it printed."""


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """Runs a bench that starts no other program, in this process, which has the libraries already."""

    def run(main: Callable[[], int | None], *arguments: str) -> tuple[int | None, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        code = main()
        return code, capsys.readouterr().out

    return run


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([3.0], 99)) == (50.0, 99.0, 3.0)
    assert milliseconds([0.001, 0.002]) == "1.0 / 2.0 ms"


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_a_missed_target_is_marked_beside_the_number() -> None:
    rows = {
        "claim": {"sqlite": Row("claim", "60 ms", "< 50 ms", met=False), "postgresql": Row("claim", "9 ms", met=True)}
    }
    assert "| claim | 60 ms (missed) | 9 ms | < 50 ms |" in comparison(rows, ["sqlite", "postgresql"])


def test_real_trainings_are_spread_among_the_stub_jobs() -> None:
    names = job_names(Plan(jobs=500, real=20, workers=3, minutes=1, seed=0))
    assert len(set(names)) == 500
    assert [n for n, name in enumerate(names) if name.startswith("real-")] == list(range(24, 500, 25))
    assert not any(name.startswith("real-") for name in job_names(Plan(5, 0, 3, 1, 0)))


@pytest.mark.slow
def test_a_small_soak_loses_and_doubles_nothing() -> None:
    done = run("bench.soak", "--quick", "--databases", "sqlite", "--minutes", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| sqlite |"))
    assert row.startswith("| sqlite | 5 |") and row.endswith("| 5 | 0 | 0 |")


@pytest.mark.slow
def test_the_overhead_is_printed_as_one_table() -> None:
    done = run(
        "bench.overhead", "--quick", "--databases", "sqlite", "--parts", "jobs", "claims", "heartbeats", "events"
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed, as may be where the machine is busy
    assert done.stdout.count("\n| ") == 16, done.stdout + done.stderr


@pytest.mark.slow
def test_the_api_at_scale_is_printed_as_one_table() -> None:
    sizes = ("--jobs", "100", "--points", "1000", "--calls", "2", "--steps", "20")
    done = run("bench.api_scale", *sizes, "--databases", "sqlite")
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed, as may be where the machine is busy
    assert done.stdout.count("\n| ") == 9, done.stdout + done.stderr


@pytest.mark.slow
def test_an_upload_is_measured_on_both_storages_and_refusals_with_it() -> None:
    done = run("bench.upload", "--megabytes", "80")
    assert done.stdout.count("| stored |") == 2, done.stdout + done.stderr
    assert done.stdout.count("| 2 parts joined, digest read |") == 2
    assert done.stdout.count("| 413 after ") + done.stdout.count("| WriteError after ") == 2


@pytest.mark.slow
def test_the_allocators_settings_are_printed_as_one_table() -> None:
    done = run("bench.malloc", "--steps", "2", "--rounds", "1")
    assert done.stdout.count("MALLOC_") >= 3, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wall_is_measured_beside_none() -> None:
    done = run("bench.wall", "--rounds", "2")
    assert done.returncode in (0, 1), done.stderr  # 1: the target was missed, as may be where the machine is busy
    assert "| the same behind " in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_shortest_commands_are_measured(run_here: RunHere) -> None:
    code, output = run_here(command_line.main, "--rounds", "1")
    assert code in (0, 1)  # 1: the target was missed, as may be where the machine is busy
    assert "| anneal --help |" in output and "| anneal job list |" in output


@pytest.mark.slow
def test_streams_lose_nothing_while_they_are_measured() -> None:
    done = run("bench.streams", "--streams", "20", "--seconds", "5", "--databases", "sqlite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 20 streams, sqlite |" in done.stdout and done.stdout.rstrip().endswith("| 0 | 0 |")


@pytest.mark.slow
@pytest.mark.acceptance
def test_our_image_loop_is_measured_beside_a_plain_one(shared_data: Path, run_here: RunHere) -> None:
    photos = str(shared_data / "images" / "pd_photos")
    code, output = run_here(image_loop.main, "--photos", photos, "--steps", "2", "--rounds", "1")
    assert code in (0, 1)  # 1: the target was missed, as may be where the machine is busy
    assert output.count("| plain / ours |") == 2 and "| ours, a step |" in output, output


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="says so only where there is no accelerator")
def test_the_accelerators_bench_says_that_it_needs_one(run_here: RunHere) -> None:
    code, output = run_here(image_accelerator.main)
    assert code == 0 and output.startswith("nothing measured: no CUDA accelerator here")


@pytest.mark.slow
def test_ways_to_denoise_text_are_compared(run_here: RunHere) -> None:
    _, output = run_here(sampling_text.main, "--train-steps", "2", "--new-tokens", "16", "--width", "48")
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 7, output
    assert rows[2].startswith("| generate.py | 16 |") and "| 1.0 x | 100.0% |" in rows[2]
    assert rows[3].startswith("| plain | 16 |") and "| 100.0% |" in rows[3]


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
