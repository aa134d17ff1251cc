"""Method `fetch_model`: a base model from a Hub into out/model/. Its family is known before its weights are fetched."""

from pathlib import Path

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.fetch import FetchModelParams, FetchParams
from trainers.core.context import JobContext, Outcome
from trainers.core.fetching import Kind, fetch_into
from trainers.image.models.families import family_of
from trainers.text.models.families import config_read
from trainers.text.models.families import family_of as text_family_of


def fetch(job: JobContext[FetchParams]) -> Outcome:
    return fetch_into(job, MODEL)


def family_check(folder: Path, params: FetchParams) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) where the configuration names another family than asked for, or none of ours.

    The catalog looks again when the files are published.
    """
    assert isinstance(params, FetchModelParams)
    is_pipeline = (folder / "model_index.json").is_file()
    family = family_of(folder).name if is_pipeline else text_family_of(config_read(folder)).name
    if params.family not in ("", family):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{params.repo} is of family {family}; expected {params.family}.")


MODEL = Kind(
    "model",
    "model",
    (".safetensors", ".json", ".txt", ".model", ".jinja"),
    ReasonCode.BAD_BASE_MODEL,
    first=("model_index.json", "config.json", "text_encoder/config.json"),
    check=family_check,
)
