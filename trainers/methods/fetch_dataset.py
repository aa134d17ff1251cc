"""Method `fetch_dataset`: a dataset from a Hub into out/dataset/."""

from trainers.errors import ReasonCode
from trainers.fetching import Kind, fetch_into
from trainers.workspace import Outcome, Workspace

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ROWS = (".parquet", ".json", ".jsonl", ".csv", ".txt")
DATASET = Kind("dataset", "dataset", (*PICTURES, *ROWS), ReasonCode.BAD_DATASET)


def fetch(work: Workspace) -> Outcome:
    return fetch_into(work, DATASET)
