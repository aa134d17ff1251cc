"""Method `fetch_model`: a base model from a Hub into out/model/."""

from trainers.errors import ReasonCode
from trainers.fetching import Kind, fetch_into
from trainers.workspace import Outcome, Workspace

MODEL = Kind("model", "model", (".safetensors", ".json", ".txt"), ReasonCode.BAD_BASE_MODEL)


def fetch(work: Workspace) -> Outcome:
    return fetch_into(work, MODEL)
