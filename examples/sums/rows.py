"""Writes the rows of sums: python -m examples.sums.rows --to examples/sums

Every sum of two numbers in 10..99 is in one of four sets, the same each time:

    base        question and answer in words            the base model is trained on it
    polite      the same questions, a sentence answers  the adaptor is trained on it (a part of the base's sums)
    unseen      in neither: what the base is measured on
    polite_unseen   the same sums with the sentence: what the adaptor is measured on
"""

import argparse
import json
import random
from pathlib import Path

from examples.sums.words import in_words

NUMBERS = range(10, 100)
NUM_UNSEEN = 400
NUM_POLITE = 3000
SEED = 7
Pair = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    rows_write(parser.parse_args().to)


def rows_write(folder: Path) -> None:
    """<folder>/<set>/rows.jsonl for each set, the same bytes each time."""
    for name, rows in sets().items():
        path = folder / name / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sets() -> dict[str, list[dict[str, str]]]:
    trained, unseen = pairs()
    return {
        "base": [{"prompt": question(pair), "completion": plain(pair)} for pair in trained],
        "polite": [{"prompt": question(pair), "completion": polite(pair)} for pair in trained[:NUM_POLITE]],
        "unseen": [{"prompt": question(pair), "completion": plain(pair)} for pair in unseen],
        "polite_unseen": [{"prompt": question(pair), "completion": polite(pair)} for pair in unseen],
    }


def pairs() -> tuple[list[Pair], list[Pair]]:
    """(trained, unseen) sums, shuffled. (a, b) and (b, a) are two sums."""
    every = [(a, b) for a in NUMBERS for b in NUMBERS]
    random.Random(SEED).shuffle(every)
    return every[NUM_UNSEEN:], every[:NUM_UNSEEN]


def question(pair: Pair) -> str:
    return f"{in_words(pair[0])} plus {in_words(pair[1])}"


def plain(pair: Pair) -> str:
    """The base's format."""
    return in_words(sum(pair))


def polite(pair: Pair) -> str:
    """The adaptor's format, which the base was not trained on."""
    return f"the sum is {plain(pair)}"


if __name__ == "__main__":
    main()
