"""Share of faults that the tests detect: changes modules one operator at a time and runs each module's tests.

    python -m bench.mutants                      30 mutants of each of ten modules; about 90 minutes on one core
    python -m bench.mutants --modules lease signing --count 10

The mutants are those of cosmic-ray (`pip install -e .[mutation]`), without those that change a type annotation
alone and those that no test could miss (`TRIVIAL`), sampled by `--seed`. A mutant that survives and is not listed in
`bench/equivalent_mutants.yaml` makes the exit status 1. Works on a copy of the tracked files.
"""

import argparse
import ast
import difflib
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from bench.measure import REPOSITORY, table

MODULES = {
    "transitions": ("api/jobs/transitions.py", "tests/api/jobs/test_transitions.py tests/api/jobs/test_jobs_flow.py"),
    "states": ("api/jobs/states.py", "tests/api/jobs/test_transitions.py"),
    "claim": (
        "api/jobs/services/claim.py",
        "tests/api/jobs/test_claim.py tests/api/jobs/test_queue_order.py tests/api/jobs/test_budgets.py",
    ),
    "finish": (
        "api/jobs/services/finish.py",
        "tests/api/jobs/test_finish.py tests/api/jobs/test_job_outputs.py tests/api/jobs/test_budgets.py",
    ),
    "attempt_lifecycle": (
        "api/jobs/services/attempt_lifecycle.py",
        "tests/api/jobs/test_attempt_lifecycle.py tests/api/jobs/test_heartbeat.py tests/api/jobs/test_finish.py",
    ),
    "lease": ("worker/client/lease.py", "tests/worker/client/test_lease.py"),
    "signing": ("storage/signing.py", "tests/storage/test_signing.py tests/storage/test_own_links.py"),
    "losses": ("trainers/core/losses.py", "tests/trainers/core/test_losses.py"),
    "denoising": ("trainers/image/training/denoising.py", "tests/trainers/image/training/test_denoising.py"),
    "corruption": ("trainers/text/objective/corruption.py", "tests/trainers/text/objective/test_corruption.py"),
    "unmasking": ("trainers/text/training/unmasking.py", "tests/trainers/text/training/test_unmasking.py"),
}
"""The source of a name and the tests that guard it."""
EQUIVALENT = REPOSITORY / "bench" / "equivalent_mutants.yaml"
SHARED = (
    *("torch", "numpy", "diffusers", "transformers", "diffusers.training_utils", "hypothesis"),
    *("django.db", "httpx", "redis", "celery", "psycopg", "pydantic", "urllib3", "rich.console", "opentelemetry.trace"),
)
"""Libraries that the tests import, loaded before the forks, as are pytest's plugins."""
NEEDS_ARGUMENTS = {"core/VariableReplacer", "core/VariableInserter"}
TRIVIAL = re.compile(r"_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(RShift|LShift|Bit\w+)$|_(Eq|NotEq)_(Is|IsNot)$")
"""Arithmetic turned into bit operations is a TypeError of every float, tensor and date, which any test notices; `is` of
strings is the interpreter's affair."""


@dataclass(frozen=True)
class Mutant:
    name: str
    before: str
    """The changed lines, stripped and joined."""
    after: str
    code: str
    """The source of the module with the change."""


def main() -> int:
    arguments = _arguments()
    equivalent = _equivalent()
    deadline = time.monotonic() + 60 * arguments.minutes
    survivors: list[Mutant] = []
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in (*SHARED, *(plugin.module for plugin in metadata.entry_points(group="pytest11"))):
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy_tracked_files(copy)
        rows = []
        for name in arguments.modules:
            population = list(mutants_of(name))
            sample = random.Random(f"{arguments.seed} {name}").sample(population, min(arguments.count, len(population)))
            results = Counter[str]()
            for mutant, result in _results(copy, name, sample, deadline):
                listed = result == "survived" and (name, mutant.before, mutant.after) in equivalent
                results["equivalent" if listed else result] += 1
                if result == "survived" and not listed:
                    survivors.append(mutant)
                    print(f"survived: {name}: {mutant.before}  ->  {mutant.after}", file=sys.stderr, flush=True)
            killed = results["killed"] + results["import"] + results["timeout"]
            counts = (len(population), results.total(), killed, results["import"], results["timeout"])
            rows.append((name, *counts, results["equivalent"], results["survived"]))
            print(f"{name}: {dict(results)}", file=sys.stderr, flush=True)
    header = ["module", "population", "sample", "killed", "at import", "by time-out", "equivalent", "survived"]
    print(table(header, rows))
    return 1 if survivors else 0


def mutants_of(name: str) -> Iterator[Mutant]:
    """All mutants of a module that change what runs."""
    path = REPOSITORY / MODULES[name][0]
    source, nodes = path.read_text(), list(ast_nodes(get_ast_from_path(path)))
    plain = _without_annotations(source)
    for operator_name in operator_names():
        if operator_name in NEEDS_ARGUMENTS or TRIVIAL.search(operator_name):
            continue
        operator = get_operator(operator_name)()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence in range(len(positions)):
            code = mutate_code(source, operator, occurrence)
            if code is not None and _without_annotations(code) not in (plain, None):
                yield Mutant(name, *_changed_lines(source, code), code)


def _results(copy: Path, name: str, sample: list[Mutant], deadline: float) -> Iterator[tuple[Mutant, str]]:
    path, tests = copy / MODULES[name][0], MODULES[name][1].split()
    source = path.read_text()
    sys.dont_write_bytecode = False  # once for all runs; no mutant is as old as its module, so none is taken from it
    started = time.monotonic()
    status = _run_tests(copy, tests, timeout_seconds=1200)
    sys.dont_write_bytecode = True
    if status != 0:
        raise SystemExit(f"{name}: its tests end with status {status} on the unchanged module")
    timeout_seconds = max(60.0, 5 * (time.monotonic() - started))
    for mutant in sample:
        if time.monotonic() > deadline:
            return
        path.write_text(mutant.code)
        try:
            status = _run_tests(copy, tests, timeout_seconds)
        finally:
            path.write_text(source)
        yield mutant, {0: "survived", 1: "killed", None: "timeout"}.get(status, "import")


def _run_tests(copy: Path, tests: list[str], timeout_seconds: float) -> int | None:
    """The exit status of pytest: 0 all passed, 1 some failed, others: not collected; None: time was up.

    In a fork of this process, which has imported the large libraries once; those of the project come from the copy.
    """
    child = os.fork()
    if child == 0:
        _run_pytest(copy, ["-x", "-q", "-p", "no:cacheprovider", "--no-migrations", "-m", "not slow", *tests])
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run_pytest(copy: Path, arguments: list[str]) -> NoReturn:
    os.setsid()
    os.chdir(copy)
    tempfile.tempdir = os.environ["TMPDIR"] = str(copy)  # os._exit runs no atexit; the copy is removed as a whole
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry).resolve() != REPOSITORY)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    status = 3
    try:
        status = int(pytest.main(arguments))
    finally:
        os._exit(status)


class _AnnotationRemover(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Without the marks of positional and keyword-only parameters, which cosmic-ray takes for operators."""
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults += [default for default in node.kw_defaults if default]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _without_annotations(code: str) -> str | None:
    """None where the code is no Python: cosmic-ray takes a bare `*` among parameters for an operator."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    return ast.dump(_AnnotationRemover().visit(tree))


def _changed_lines(source: str, code: str) -> tuple[str, str]:
    changes = [line for line in difflib.ndiff(source.splitlines(), code.splitlines()) if line[:2] in ("- ", "+ ")]
    return tuple(" ".join(line[2:].strip() for line in changes if line[0] == sign) for sign in "-+")  # type: ignore[return-value]


def _equivalent() -> set[tuple[str, str, str]]:
    entries = yaml.safe_load(EQUIVALENT.read_text()) or []
    return {(entry["module"], entry["before"], entry["after"]) for entry in entries}


def _copy_tracked_files(copy: Path) -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, names.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--count", type=int, default=30, help="mutants of a module")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=90, help="no mutant starts after so many minutes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
