"""Method `fetch_model`: a base model from a Hub into out/model/. Its family is known before its weights are fetched."""

from pathlib import Path

from trainers.errors import ReasonCode, TrainerError
from trainers.fetching import Kind, fetch_into
from trainers.models.load import model_index
from trainers.params.fetch import FetchModelParams, FetchParams
from trainers.workspace import Outcome, Workspace

FAMILY_OF_PIPELINE = {"StableDiffusionPipeline": "sd1"}
"""The same as in the catalog, which looks again when the files are published."""


def fetch(work: Workspace) -> Outcome:
    return fetch_into(work, MODEL)


def family_check(folder: Path, params: FetchParams) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) where model_index.json is missing or names another family than asked for."""
    assert isinstance(params, FetchModelParams)
    pipeline = model_index(folder).get("_class_name")
    family = FAMILY_OF_PIPELINE.get(str(pipeline))
    wanted = [params.family] if params.family else sorted(FAMILY_OF_PIPELINE.values())
    if family not in wanted:
        said = f"{params.repo} is a {pipeline} ({family or 'of no supported family'}); expected {' or '.join(wanted)}."
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, said)


MODEL = Kind(
    "model",
    "model",
    (".safetensors", ".json", ".txt"),
    ReasonCode.BAD_BASE_MODEL,
    first="model_index.json",
    check=family_check,
)
