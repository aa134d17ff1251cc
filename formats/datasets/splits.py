"""Splits of a dataset (train, validation, test), from the names of its files and folders.

A dataset has splits where a file or folder is named by one: `test.jsonl`, `train-00000-of-00002.parquet`, `val/a.csv`,
`split=hard/a.jsonl`; all other files then belong to train.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
    "eval": TEST,
    "evaluation": TEST,
}
"""The same words as in Hugging Face datasets."""
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
SPLIT_FOLDER = re.compile(r"split=([A-Za-z0-9][\w.-]*)")
"""Folder of a split with any name."""
PARTS = re.compile(r"[-._ \d]+")


def splits_of(paths: Iterable[str], *, by_folder_only: bool = False) -> dict[str, list[str]]:
    """`paths` by split, train first; {} if no name is a split. `by_folder_only`: ignore file names, for images."""
    listed = sorted(paths)
    named = {path: _split_of(path, by_folder_only=by_folder_only) for path in listed}
    if not by_folder_only and not any(named.values()):
        ends = {path: WORDS.get(PARTS.split(_stem(path))[-1]) for path in listed}
        named = ends if len({split for split in ends.values() if split}) > 1 else named
    if not any(named.values()):
        return {}
    paths_of: dict[str, list[str]] = {}
    for path in listed:
        paths_of.setdefault(named[path] or TRAIN, []).append(path)
    order = (TRAIN, VALIDATION, TEST, *sorted(paths_of))
    return {split: paths_of[split] for split in dict.fromkeys(order) if split in paths_of}


def splits_message(counts: Mapping[str, int], what: str) -> str:
    listed = ", ".join(f"{split} with {count} {what}" for split, count in counts.items())
    return f"the files are splits: {listed}; a job reads the one named by its parameter split"


def split_folder(split: str) -> str:
    """Folder name that `splits_of` reads as this split."""
    return split if split in (TRAIN, VALIDATION, TEST) else f"split={split}"


def split_name(split: str) -> str:
    """Canonical name: validation for val, valid and dev."""
    return WORDS.get(split.lower(), split)


def split_chosen(splits: Mapping[str, Sequence[str]] | Sequence[str], split: str) -> str:
    """The split to read; "" if the dataset has none. Raises ValueError that names the existing ones."""
    name = split_name(split)
    if name in splits:
        return name
    if splits:
        raise ValueError(f"split={split!r} is not in the dataset, which has {', '.join(splits)}; choose one of them")
    if name != TRAIN:
        raise ValueError(f"split={split!r} is not in the dataset, whose files name no splits; leave split out")
    return ""


def split_evaluated(splits: Mapping[str, Sequence[str]] | Sequence[str], split: str) -> str:
    """As `split_chosen`; an empty `split` means test, else validation, else the first."""
    if split:
        return split_chosen(splits, split)
    return next((name for name in (TEST, VALIDATION, TRAIN) if name in splits), next(iter(splits), ""))


def _split_of(path: str, *, by_folder_only: bool) -> str | None:
    split = None if by_folder_only else _file_split(_stem(path))
    for folder in reversed(PurePosixPath(path).parent.parts):
        named = SPLIT_FOLDER.fullmatch(folder)
        split = split or (named[1] if named else WORDS.get(folder.lower()))
    return split


def _file_split(stem: str) -> str | None:
    split = WORDS.get(PARTS.split(stem)[0])
    shard = SHARD.fullmatch(stem)
    if split and shard and shard[1] not in WORDS:
        return shard[1]  # train_sft-00000-of-00003.parquet
    return split


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.lower()
