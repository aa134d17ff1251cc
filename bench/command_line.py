"""CPU time of the shortest commands: the help, and a list of no jobs from an API that answers at once.

    python -m bench.command_line [--rounds 10] [--before TREE]

`--before`: another checkout with a `.venv` of its own, measured in turns with this one. The least of the rounds counts,
since a busy machine only adds to it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from bench.measure import REPOSITORY, Row, machine, table
from tests.cli.small_server import serving

COMMANDS = {"anneal --help": (["--help"], 0.2), "anneal job list": (["job", "list"], 0.3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--before", type=Path)
    args = parser.parse_args()
    with serving(lambda *_: (200, {}, json.dumps({"results": [], "next": None}).encode())) as url:
        rows = [measured(name, args.rounds, args.before, url) for name in COMMANDS]
    print(f"{machine()}\n\n{table(('', 'measured', 'target'), [(row.what, row.measured, row.target) for row in rows])}")
    return 0 if all(row.met is not False for row in rows) else 1


def measured(name: str, rounds: int, before: Path | None, url: str) -> Row:
    arguments, target = COMMANDS[name]
    now, then = [], []
    for _ in range(rounds):
        now.append(cpu_seconds(Path(sys.executable), REPOSITORY, arguments, url))
        if before:
            then.append(cpu_seconds(before / ".venv/bin/python", before, arguments, url))
    text = f"{min(now):.2f} s"
    if then:
        text += f", before {min(then):.2f} s ({min(now) / min(then):.2f}x)"
    return Row(name, text, f"at most {target} CPU-s", met=min(now) <= target)


def cpu_seconds(python: Path, tree: Path, arguments: list[str], url: str) -> float:
    env = {**os.environ, "ANNEAL_URL": url, "ANNEAL_TOKEN": "bench"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-m", "cli", *arguments], cwd=tree, env=env, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
