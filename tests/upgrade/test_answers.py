"""No answer of the API over old rows changes unless that is meant."""

import json

from tests.upgrade.answers import FILE, answers
from tests.upgrade.old_platform import OldPlatform


def test_every_answer_over_old_rows_is_the_recorded_one(served: OldPlatform) -> None:
    """Where a change is meant: python -m tests.upgrade.answers"""
    recorded, actual = json.loads(FILE.read_text()), answers(served)
    assert list(actual) == sorted(recorded, key=lambda name: int(name.split()[0]))
    different = {name: (recorded[name], actual[name]) for name in actual if recorded[name] != actual[name]}
    assert not different
    claims = [answer["body"] for name, answer in actual.items() if name.endswith("POST claims")]
    assert [claim["secrets"] for claim in claims] == [{"HF_TOKEN": "a-value-of-the-lab-0123456789"}]
