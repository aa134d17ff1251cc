"""Method `fetch_dataset`: a dataset from a Hub into out/dataset/."""

from formats.datasets.images import IMAGE_ENDINGS
from trainers.contract.errors import ReasonCode
from trainers.contract.params.fetch import FetchDatasetParams, FetchParams
from trainers.core.context import JobContext, Outcome
from trainers.core.fetching import Kind, fetch_into
from trainers.core.hub_configs import dataset_layout

ROWS = (".parquet", ".json", ".jsonl", ".csv", ".txt")


def fetch(job: JobContext[FetchParams]) -> Outcome:
    return fetch_into(job, DATASET)


def _layout(paths: list[str], card: str, params: FetchParams) -> dict[str, str]:
    assert isinstance(params, FetchDatasetParams), params
    return dataset_layout(paths, card, params)


DATASET = Kind("dataset", "dataset", (*IMAGE_ENDINGS, *ROWS), ReasonCode.BAD_DATASET, layout=_layout)
