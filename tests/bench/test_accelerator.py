"""The accelerator benches on a host with few libraries and no network, and how their rows keep to a time budget."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench import wheels
from bench.measure import REPOSITORY, installed
from bench.rows import FAILED, Measuring, RowWriter, row_or_problem, units_per_second


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python with torch, transformers, peft, accelerate, the brought wheels and what those need; nothing else."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for name in needed_by([*wheels.PRESENT, *wheels.BROUGHT]):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = libraries / top
            if not link.exists():
                link.symlink_to(Path(str(distribution(name).locate_file(top))))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={libraries} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.slow
def test_all_parts_run_with_tiny_networks_where_most_libraries_are_absent(bare_python: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.md"
    absent = [bare_python, "-c", "import sys, pyarrow"]
    assert subprocess.run(absent, capture_output=True, check=False).returncode == 1
    env = os.environ | {"PYTHON": str(bare_python), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [REPOSITORY / "bench" / "accelerator.sh", "--tiny", "--out", out]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| tiny")]
    assert [row[:3] for row in rows if len(row) == 8] == [
        ["| tiny sd", "2", "no"],
        ["| tiny flux", "2", "no"],
        ["| tiny sd", "2", "yes"],
        ["| tiny flux", "2", "yes"],
    ]
    assert [row[:2] for row in rows if len(row) == 7] == [
        ["| tiny LLaDA, LoRA", "2 x 32"],
        ["| tiny ModernBERT", "2 x 32"],
    ]
    assert all(line in done.stdout for line in out.read_text().splitlines())


def test_missing_wheels_are_listed_with_their_pinned_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ("diffusers", "pydantic-core")
    monkeypatch.setattr(wheels, "is_installed", lambda name, _least="": name not in absent)
    assert wheels.main() == 1
    output = capsys.readouterr().out
    assert "missing wheels: diffusers, pydantic-core." in output
    pinned = " ".join(f"{name}{wheels.constraint_of(name)}" for name in absent)
    assert "==" in pinned and f"-d wheels {pinned}\n" in output


def test_an_old_library_of_the_host_is_named_with_the_version_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "version", lambda name: "2.9.1+cu126" if name == "torch" else "99.0")
    assert wheels.main() == 1
    assert "the host needs, at least: torch 2.11\n" in capsys.readouterr().out


def test_versions_are_asked_only_of_what_is_installed() -> None:
    assert [line.partition(" ")[0] for line in installed("no-such-library", "torch")] == ["torch"]


def test_a_row_over_its_time_budget_says_so_and_the_next_is_measured() -> None:
    def endless() -> tuple[str, ...]:
        while True:
            pass

    assert row_or_problem(endless, ("a",), 0.05) == ("a", "over 0 s")
    assert row_or_problem(lambda: ("1", "2"), ("b",), 60) == ("b", "1", "2")


def test_a_time_budget_survives_a_compiler_that_wraps_exceptions() -> None:
    def wrapping() -> tuple[str, ...]:
        try:
            while True:
                pass
        except Exception as error:
            raise KeyError("compiler") from error

    assert row_or_problem(wrapping, (), 0.05) == ("over 0 s",)


def test_a_broken_row_is_written_and_remembered(tmp_path: Path) -> None:
    def broken() -> tuple[str, ...]:
        raise RuntimeError("no kernel\nfor this")

    writer = RowWriter(("network", "rate", "memory"), tmp_path / "rows.md")
    writer.row(row_or_problem(lambda: ("1", "2"), ("sd",), 60))
    assert not writer.has_failed
    writer.row(row_or_problem(broken, ("flux",), 60))
    assert writer.has_failed
    assert (tmp_path / "rows.md").read_text().splitlines()[-2:] == [
        "| sd | 1 | 2 |",
        f"| flux | {FAILED}no kernel |  |",
    ]


def test_as_many_steps_are_measured_as_fit_the_time_budget() -> None:
    runs: list[int] = []
    measuring = Measuring(torch.device("cpu"), 1.0, max_steps=7, seconds=1e9)
    units_per_second(runs.append, 2, measuring)
    assert runs == [2, 2, 7]
    units_per_second(runs.append, 2, Measuring(torch.device("cpu"), 1.0, max_steps=7, seconds=1e-9))
    assert runs[-1] == 2


def needed_by(names: list[str]) -> set[str]:
    """The names with everything that they need, extras left out."""
    needed: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in needed:
            continue
        needed.add(name)
        requirements = [Requirement(text) for text in distribution(name).requires or ()]
        names += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return needed
