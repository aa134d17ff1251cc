"""What a file says of the base model that it was made for."""

from trainers.image.adaptors.file import AdaptorFile, bad
from trainers.image.adaptors.kohya_header import CLIP_SKIP_FAMILIES
from trainers.image.models.base import Base

TITLES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux.1",
}
MARKS = (
    ("stable-diffusion-xl", "sdxl"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-3", "sd3"),
    ("sd3", "sd3"),
    ("flux-1", "flux"),
    ("flux1", "flux"),
    ("flux-2", "Flux.2"),
    ("stable-diffusion-v2", "sd2"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v1", "sd1"),
    ("sd_v1", "sd1"),
)
"""How the headers of sd-scripts and of the model specification begin, and the family that it means."""
ENTRIES = ("ss_base_model_version", "modelspec.architecture")


def family_check(file: AdaptorFile, base: Base) -> None:
    """Raises TrainerError(BAD_ADAPTOR) where the header or the network's prefix names another family."""
    for entry in ENTRIES:
        said = file.metadata.get(entry, "")
        family = next((family for mark, family in MARKS if said.lower().startswith(mark)), base.family)
        if family != base.family:
            raise bad(
                f"{file.name} says {entry} = {said}, so it is for {TITLES.get(family, family)}; "
                f"the base model is {TITLES[base.family]}"
            )
    other = {"unet": "transformer", "transformer": "unet"}[base.network_part]
    if key := next((key for key in file.tensors if key.startswith(f"{other}.")), None):
        raise bad(
            f"{key} is of a {other}; the base model is {TITLES[base.family]}, whose network is a {base.network_part}"
        )


def clip_skip_of(metadata: dict[str, str], family: str) -> int:
    """Layers of CLIP that the training left out, as diffusers counts them; 0 where the file does not say it well."""
    own = metadata.get("clip_skip")
    told = own or (metadata.get("ss_clip_skip", "") if family in CLIP_SKIP_FAMILIES else "")
    if not (told.isascii() and told.isdigit()) or family == "flux":
        return 0
    return max(int(told) - (0 if own else 1), 0)


def prediction_type_of(metadata: dict[str, str]) -> str | None:
    """epsilon or v_prediction where the file says so, as we, sd-scripts or the model specification write it."""
    said = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type")
    if said:
        return {"v": "v_prediction"}.get(said, said)
    return {"True": "v_prediction", "False": "epsilon"}.get(metadata.get("ss_v_parameterization", ""))
