"""Shared by benches: measuring, tables, a description of the machine."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """A table row. `met`: whether the target was met; None without a target."""

    what: str
    measured: str
    target: str = ""
    met: bool | None = None


def python(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Runs this Python in the repository; returns what it printed. Raises CalledProcessError."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=env or os.environ, check=True, capture_output=True, text=True)
    return done.stdout


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and of all children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile by nearest rank, always a measured value."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def milliseconds(values: Sequence[float]) -> str:
    """p50 and p99 of seconds, for a table."""
    return f"{1000 * percentile(values, 50):.1f} / {1000 * percentile(values, 99):.1f} ms"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def machine() -> str:
    """One line: processor, cores, load, versions of Python and the main packages."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else "unknown processor"
    packages = ", ".join(installed("django", "uvicorn", "celery", "torch"))
    load = os.getloadavg()[0]
    return f"{processor}, {os.cpu_count()} cores, load {load:.1f}; Python {sys.version.split()[0]}, {packages}"


def installed(*names: str) -> Iterator[str]:
    """Name and version of each package that is installed."""
    for name in names:
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"
