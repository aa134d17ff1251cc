"""Method `import_adaptor`: turns a LoRA file from elsewhere into an adaptor in both formats, or refuses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.digests import sha256_of
from foundation.strict_json import json_read
from trainers.contract.params.import_adaptor import ImportAdaptorParams
from trainers.contract.spec import InputRef
from trainers.core.context import JobContext, Outcome
from trainers.core.manifest import manifest_body
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.file import bad, clip_skip_of, prediction_type_of
from trainers.image.adaptors.load import Adaptor, adaptor_read
from trainers.image.adaptors.pairs import pair_facts
from trainers.image.adaptors.save import adaptor_write, how_to_use
from trainers.image.models.base import Base
from trainers.image.models.families import image_family, load_base, stored_dtype


def import_adaptor(job: JobContext) -> Outcome:
    """Checks the file against every layer of the base, writes both formats with their alphas, and a card."""
    params, model = job.spec.params, job.spec.inputs.model
    assert isinstance(params, ImportAdaptorParams) and model is not None
    path = _only_file(job.dataset)
    base = load_base(job.model, stored_dtype(job.model))
    adaptor = adaptor_read(base, path.parent)
    metadata = _metadata(base, adaptor, params, model)
    job.facts.update(
        family=base.family,
        imported={"file": path.name, "sha256": sha256_of(path), "format": adaptor.file.format},
        trigger_word=metadata["trigger_word"],
        **pair_facts(adaptor.pairs),
        **how_to_use(metadata),
    )
    config = {"no_metadata": params.no_metadata}
    adaptor_write(base, job.out / "adaptor", adaptor.pairs, metadata=metadata, config=config)
    prediction = str(base.scheduler_config.get("prediction_type", "epsilon"))
    card_write(job.out / "adaptor", manifest_body(job, "succeeded"), base_prediction=prediction)
    return "succeeded"


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if len(files) != 1:
        present = ", ".join(path.name for path in files[:5]) or "found none"
        raise bad(f"expected one .safetensors file in the dataset, {present}")
    return files[0]


def _metadata(base: Base, adaptor: Adaptor, params: ImportAdaptorParams, model: InputRef) -> dict[str, str]:
    """As a training job writes it; with the file's prediction type if the family can have several."""
    prediction, skip = prediction_type_of(adaptor.metadata), clip_skip_of(adaptor.metadata, base.family)
    has_prediction = prediction and not image_family(base.family).is_flow
    return {
        "base_sha256": model.sha256,
        "base_name": model.name,
        "name": params.adaptor_name,
        "trigger_word": params.trigger_word or trigger_of(adaptor.metadata),
        **({"prediction_type": str(prediction)} if has_prediction else {}),
        **({"clip_skip": str(skip)} if skip else {}),
    }


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The trigger phrase in a file's header, else the one of sd-scripts' tags that every caption had."""
    if phrase := metadata.get("trigger_word") or metadata.get("modelspec.trigger_phrase"):
        return phrase[:100]
    try:
        folders: Any = json_read(metadata.get("ss_tag_frequency", "{}"), "ss_tag_frequency")
        counts = {tag: int(count) for tags in folders.values() for tag, count in tags.items()}
    except (ValueError, AttributeError, TypeError):
        return ""
    most = max(counts.values(), default=0)
    usual = [tag for tag, count in counts.items() if count == most]
    return usual[0].strip()[:100] if len(usual) == 1 else ""
