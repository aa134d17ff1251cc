"""Method `fetch_dataset`: one configuration of a dataset's repository on a Hub into out/dataset/, by split."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

import yaml

from formats.datasets.images import IMAGE_ENDINGS
from formats.datasets.splits import TRAIN, WORDS, split_folder, split_name, splits_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.fetch import FetchDatasetParams, FetchParams
from trainers.core.context import JobContext, Outcome
from trainers.core.hub.fetching import Kind, fetch_into

ROWS = (".parquet", ".json", ".jsonl", ".csv", ".txt")


def fetch(job: JobContext[FetchParams]) -> Outcome:
    return fetch_into(job, DATASET)


def _layout(paths: list[str], card: str, params: FetchParams) -> dict[str, str]:
    assert isinstance(params, FetchDatasetParams), params
    return dataset_layout(paths, card, params)


DATASET = Kind("dataset", "dataset", (*IMAGE_ENDINGS, *ROWS), ReasonCode.BAD_DATASET, layout=_layout)


DEFAULT = "default"
DATA_FOLDER = "data"
Configs = Mapping[str, Mapping[str, Sequence[str]]]
"""Patterns by split by configuration."""


def dataset_layout(paths: Sequence[str], card: str, params: FetchDatasetParams) -> dict[str, str]:
    """Path in the version by path in the repository, of the files to fetch; the split can be read from each path.

    `card` is the repository's README.md, or "". With `allow` the caller chooses the
    files, of any configuration. Raises TrainerError BAD_PARAMETERS that names the configurations or splits.
    """
    declared, default = _declared(card)
    if declared and (params.config or not params.allow):
        name = _chosen(params.config, [*declared], default)
        by_split = _matched(paths, declared[name])
        if not any(by_split.values()):
            raise _refused(f"config={name!r} names no file that is fetched: {_listed(declared[name].values())}")
    else:
        below = _of_folder(paths, params)
        by_split = splits_of(below) or {"": below}
    if params.split:
        split = next((one for one in by_split if split_name(one) == split_name(params.split)), None)
        if split is None:
            raise _refused(f"split={params.split!r} is not in {params.repo}, which has {_listed([[*by_split]])}")
        by_split = {split: by_split[split]}
    return {path: _placed(path, split) for split, files in by_split.items() for path in files}


def _declared(card: str) -> tuple[Configs, str]:
    """(configurations that the card's YAML lists, the default one or "")."""
    start, _, rest = card.partition("---\n")
    try:
        head = yaml.safe_load(rest.partition("\n---")[0]) if not start.strip() else None
    except yaml.YAMLError:
        return {}, ""
    listed = head.get("configs") if isinstance(head, dict) else None
    configs = {
        str(one["config_name"]): _patterns(one["data_files"])
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and "config_name" in one and "data_files" in one
    }
    marked = [str(one["config_name"]) for one in listed or [] if isinstance(one, dict) and one.get("default") is True]
    return configs, next((name for name in (*marked, DEFAULT) if name in configs), "")


def _patterns(data_files: Any) -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = {}
    for one in data_files if isinstance(data_files, list) else [data_files]:
        split, path = (one.get("split", TRAIN), one.get("path")) if isinstance(one, dict) else (TRAIN, one)
        patterns.setdefault(str(split), []).extend(str(each) for each in (path if isinstance(path, list) else [path]))
    return patterns


def _chosen(config: str, names: Sequence[str], default: str) -> str:
    if config and config not in names:
        raise _refused(f"config={config!r} is not in the repository, which has {', '.join(names)}")
    name = config or default or (names[0] if len(names) == 1 else "")
    if not name:
        raise _refused(f"the repository has the configurations {', '.join(names)}; choose one by config")
    return name


def _matched(paths: Sequence[str], patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Files by split; one that several splits match belongs to the first."""
    left, matched = [*paths], dict[str, list[str]]()
    for split, split_patterns in patterns.items():
        matched[split] = [path for path in left if any(fnmatch(path, pattern) for pattern in split_patterns)]
        left = [path for path in left if path not in matched[split]]
    return matched


def _of_folder(paths: Sequence[str], params: FetchDatasetParams) -> list[str]:
    """The files of the folder `config`; without `config` all, unless several folders hold datasets."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.partition("/")[0] if "/" in path else "", []).append(path)
    named = [name for name in folders if name and name != DATA_FOLDER and name.lower() not in WORDS]
    if params.config:
        if params.config not in folders:
            raise _refused(f"config={params.config!r} is not in the repository; its folders are {', '.join(named)}")
        return folders[params.config]
    with_splits = [name for name in named if splits_of(PurePosixPath(path).name for path in folders[name])]
    if not params.allow and len(with_splits) > 1:
        raise _refused(f"the repository has the configurations {', '.join(with_splits)}; choose one by config")
    return [*paths]


def _placed(path: str, split: str) -> str:
    """`path`, or below a folder named by the split if the path does not show it."""
    says = next(iter(splits_of([path])), TRAIN)
    return path if not split or says == split_name(split) else f"{split_folder(split_name(split))}/{path}"


def _listed(names: Any) -> str:
    return ", ".join(name for each in names for name in each if name) or "none"


def _refused(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_PARAMETERS, f"{message}.")
