"""docs/troubleshooting.md lists each reason that a job may end with, in the words that the job shows."""

from pathlib import Path

import pytest

from trainers.contract.errors import MEANINGS, ReasonCode

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"


@pytest.mark.parametrize("code", ReasonCode)
def test_every_reason_is_listed_in_its_own_words(code: ReasonCode) -> None:
    row = f"| `{code}` | {MEANINGS[code].sentence} | {MEANINGS[code].hint} |"
    assert row in PAGE.read_text(encoding="utf-8").splitlines()
