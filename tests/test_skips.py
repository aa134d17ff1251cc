"""The check of .ci/run that no test is skipped without a listed reason."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = "# comment\ntests/a.py::test_one[*]: needs a GPU\ntests/b.py: the folder * is not there\n"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_skips", ROOT / ".ci" / "check_skips.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def status(checker: ModuleType, folder: Path, *lines: str) -> int:
    (folder / "list").write_text(LIST)
    (folder / "log").write_text("...s.. [100%]\n" + "".join(f"{line}\n" for line in lines) + "1 passed\n")
    result: int = checker.main([str(folder / "log")], folder / "list")
    return result


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("SKIPPED tests/a.py::test_one[x y] - needs a GPU", 0),
        ("SKIPPED tests/a.py::test_one[a - b] - Skipped: needs a GPU", 0),
        ("SKIPPED tests/b.py - Skipped: the folder /x: y is not there", 0),
        ("SKIPPED tests/a.py::test_one[x y] - Skipped: no browser", 1),
        ("SKIPPED tests/a.py::test_two - Skipped: needs a GPU", 1),
        ("SKIPPED [3] tests/a.py:7: needs a GPU", 1),
        ("a test says SKIPPED without being it", 0),
    ],
)
def test_a_skip_passes_only_with_a_listed_test_and_reason(
    line: str, expected: int, checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(checker, tmp_path, line) == expected
    assert ("NOT ALLOWED" in capsys.readouterr().out) == (expected == 1 and "[3]" not in line)


def test_every_skip_is_printed(checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status(checker, tmp_path, "SKIPPED tests/a.py::test_one[x] - Skipped: needs a GPU")
    assert "skipped: tests/a.py::test_one[x]: needs a GPU" in capsys.readouterr().out


def test_a_line_without_a_reason_is_refused(checker: ModuleType) -> None:
    with pytest.raises(ValueError, match="expected `TEST: REASON`"):
        checker.allowed_skips("tests/a.py::test_one\n")


def test_what_pytest_prints_is_understood(checker: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("import pytest\ndef test_one(): pytest.skip('needs a GPU')\n")
    command = [sys.executable, "-m", "pytest", "-rs", "--no-fold-skipped", str(tmp_path)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert [match["reason"] for match in checker.SKIP.finditer(printed)] == ["needs a GPU"]


def test_the_list_is_readable_and_names_tests_that_exist(checker: ModuleType) -> None:
    allowed = checker.allowed_skips((ROOT / ".ci" / "allowed_skips").read_text(encoding="utf-8"))
    for test, _ in allowed:
        path, _, name = test.partition("::")
        if path != "tests/*":
            source = (ROOT / path).read_text(encoding="utf-8")
            assert name.rpartition("::")[2] == "*" or f"def {name.rpartition('::')[2]}(" in source, test
