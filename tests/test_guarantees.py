"""GUARANTEES.md: every test that it names is there, every fault has one, every fault test is named, and CI runs one of
each."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "GUARANTEES.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MATRIX = (
    "API dies after commit, before the call",
    "broker flushed / killed / silent / down for minutes",
    "worker dies between call and claim",
    "claim answer lost",
    "kill -9 of host process, shim, torchrun, or one of two ranks",
    "host SIGSTOP past the lease, then SIGCONT",
    "worker cut off from the API",
    "API and database restart, suspend, server clock step",
    "database connections die silently",
    "the event poller meets an error that nobody expected",
    "a trainer emits 10,000 events or a log without end",
    "many followers, workers and readers at once on SQLite",
    "a call names 100 files and the storage is slow",
    "ports of `anneal up` are taken at a restart",
    "a finish that the API refuses for good",
    "NUL or lone surrogates in log, event, manifest; an event too large",
    "a gateway answers 404/401/502 for a while; one at the finish",
    "a proxy resets or refuses large bodies",
    "one S3 400 or gateway 404 on a transfer; a file missing at the finish",
    "an attempt is lost after its last steps, and they are done again",
    "a torn finish on the worker's disk, a claim of an unknown shape",
    "worker and API of different releases",
    "a trainer fills its log",
    "two reapers, two dispatchers, 16 claimers at once",
    "two workers with one identity",
    "disk full / storage 503 while publishing",
    "trainer exits 0 without a manifest; OOM-killed; prints secrets; dies before its first checkpoint again and again",
)
"""The crash matrix of the job core, row by row."""


def rows() -> dict[str, str]:
    """Of all tables: the last column by the first."""
    cells = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| ")]
    return {first.strip(): rest[-1] for first, *rest in cells}


def names_in(path: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def smaller_of(path: Path, name: str) -> str:
    """The test that CI runs instead of `name`, where only `make test-all` runs that one."""
    body = ast.parse(path.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    marks = [
        mark for function in functions for mark in map(ast.unparse, function.decorator_list) if ".long" in mark[:16]
    ]
    marks += [ast.unparse(node) for node in body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    result = re.search(r"mark\.long(?:\(smaller='(\w+)'\))?", "\n".join(marks))
    return (result[1] or "no test") if result else ""


def test_every_test_that_is_named_is_there() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in NAMED.findall(TEXT)
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]
    assert not missing


def test_every_promise_and_every_fault_has_a_test() -> None:
    heads = ("promise", "fault", "---")
    unproven = [first for first, proof in rows().items() if first not in heads and not NAMED.search(proof)]
    assert not unproven


def test_every_row_of_the_crash_matrix_is_there() -> None:
    assert [row for row in MATRIX if row not in rows()] == []


def test_every_fault_test_is_named() -> None:
    named = set(NAMED.findall(TEXT))
    files = sorted((ROOT / "tests" / "faults").glob("test_*.py"))
    result = {(file.relative_to(ROOT).as_posix(), name) for file in files for name in names_in(file)}
    assert {pair for pair in result if pair[1].startswith("test_")} <= named


def test_beside_a_test_that_ci_leaves_out_stands_the_smaller_one_that_it_runs() -> None:
    """Cases of a test that are left out have the other cases beside them (tests/long_tests.py)."""
    left_out = [
        f"{path}::{name}"
        for proof in rows().values()
        for path, name in NAMED.findall(proof)
        if (smaller := smaller_of(ROOT / path, name)) and (path, smaller) not in NAMED.findall(proof)
    ]
    assert not left_out
