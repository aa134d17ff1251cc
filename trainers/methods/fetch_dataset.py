"""Method `fetch_dataset`: a dataset from a Hub into out/dataset/."""

from formats.pictures import PICTURE_ENDINGS
from trainers.errors import ReasonCode
from trainers.fetching import Kind, fetch_into
from trainers.workspace import Outcome, Workspace

ROWS = (".parquet", ".json", ".jsonl", ".csv", ".txt")
DATASET = Kind("dataset", "dataset", (*PICTURE_ENDINGS, *ROWS), ReasonCode.BAD_DATASET)


def fetch(work: Workspace) -> Outcome:
    return fetch_into(work, DATASET)
