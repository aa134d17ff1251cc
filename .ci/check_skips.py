"""python .ci/check_skips.py LOG...: prints every skipped test of these logs of pytest; exits with 1 on an unlisted one.

`.ci/allowed_skips` lists those that are allowed: one a line, `TEST: REASON`, where `*` stands for anything. A skip has
to match both. The logs need the options `-rs --no-fold-skipped`.
"""

import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

SKIP = re.compile(
    r"^SKIPPED (?P<test>\S+?\.py(?:::[^\[\n]+?(?:\[.*?\])?)?) - (?:Skipped: )?(?P<reason>.*)$", re.MULTILINE
)
FOLDED = re.compile(r"^SKIPPED \[\d+\]", re.MULTILINE)
ALLOWED = Path(__file__).with_name("allowed_skips")


def main(logs: list[str], allowed_path: Path = ALLOWED) -> int:
    text = "\n".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in logs)
    if FOLDED.search(text):
        print("expected one line for each skipped test, got folded lines; run pytest with --no-fold-skipped")
        return 1
    allowed = allowed_skips(allowed_path.read_text(encoding="utf-8"))
    refused = 0
    for test, reason in sorted({(match["test"], match["reason"]) for match in SKIP.finditer(text)}):
        is_allowed = any(matches(test, one) and matches(reason, other) for one, other in allowed)
        refused += not is_allowed
        print(f"{'skipped' if is_allowed else 'SKIP NOT ALLOWED'}: {test}: {reason}")
    if refused:
        print(f"{refused} skips are not in {allowed_path}: install what the test needs, or list it with its reason")
    return 1 if refused else 0


def allowed_skips(text: str) -> list[tuple[str, str]]:
    """ValueError for a line without a reason."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [tuple(part.strip() for part in line.split(": ", 1)) for line in lines]
    for line, pair in zip(lines, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"expected `TEST: REASON`, got {line!r} in allowed_skips")
    return [(pair[0], pair[1]) for pair in pairs]


def matches(text: str, pattern: str) -> bool:
    """`*` alone is special: test ids hold brackets."""
    return fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
