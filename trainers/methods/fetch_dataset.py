"""Method `fetch_dataset`: a dataset from a Hub into out/dataset/."""

from formats.pictures import PICTURE_ENDINGS
from trainers.contract.errors import ReasonCode
from trainers.contract.params.fetch import FetchDatasetParams, FetchParams
from trainers.core.fetching import Kind, fetch_into
from trainers.core.hub_configs import dataset_layout
from trainers.core.workspace import Outcome, Workspace

ROWS = (".parquet", ".json", ".jsonl", ".csv", ".txt")


def fetch(work: Workspace) -> Outcome:
    return fetch_into(work, DATASET)


def _layout(paths: list[str], card: str, params: FetchParams) -> dict[str, str]:
    assert isinstance(params, FetchDatasetParams), params
    return dataset_layout(paths, card, params)


DATASET = Kind("dataset", "dataset", (*PICTURE_ENDINGS, *ROWS), ReasonCode.BAD_DATASET, layout=_layout)
