"""What a base model's files must be before they become a version: diffusers format, safetensors, a known family."""

import json
from collections.abc import Mapping
from typing import Any

from api.catalog.checks import Files, ending, small_read
from api.catalog.refusal import refuse, refused_if_wrong
from api.catalog.weights import safetensors_check
from storage import Storage

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")
CODE = (".py", ".so", ".exe")
FAMILY_OF_PIPELINE = {"StableDiffusionPipeline": "sd1"}
SD1_PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": (),
}
"""Classes that each part may have; empty = the trainer decides."""
WITH_WEIGHTS = ("unet", "vae", "text_encoder")
SD2_TEXT_WIDTH = 1024


def model_check(storage: Storage, key: str, files: Files) -> dict[str, Any]:
    """{family, pipeline, warnings}. Raises Problem that names the file at fault."""
    _pickles_check(files)
    paths = {str(file["path"]) for file in files}
    if "model_index.json" not in paths:
        refuse("expected a folder in diffusers format with model_index.json, got none", code="not_diffusers")
    index = _json_object(storage, key, "model_index.json")
    family = _family(index)
    _parts_check(index, files)
    if "text_encoder/config.json" in paths:
        _width_check(_json_object(storage, key, "text_encoder/config.json"))
    for file in files:
        if ending(file) == ".safetensors":
            _weights_check(storage, key, file)
    return {"family": family, "pipeline": index["_class_name"], "warnings": []}


def _pickles_check(files: Files) -> None:
    for file in files:
        if ending(file) in PICKLES:
            said = f"{file['path']}: pickled weights can run code when they are opened; expected .safetensors"
            refuse(said, code="pickle_refused", hint="Save the model with safe_serialization=True, then upload again.")
        if ending(file) in CODE:
            refuse(f"{file['path']}: a base model may not bring code; leave the file out")


def _family(index: Mapping[str, Any]) -> str:
    pipeline = index.get("_class_name")
    family = FAMILY_OF_PIPELINE.get(pipeline) if isinstance(pipeline, str) else None
    if family is None:
        known = ", ".join(FAMILY_OF_PIPELINE)
        refuse(f"model_index.json: expected _class_name to be one of {known}, got {pipeline!r}", code="unknown_family")
    return family


def _parts_check(index: Mapping[str, Any], files: Files) -> None:
    """Each part that a trainer opens is named, of a known class, and there with safetensors where it has weights."""
    for part, classes in SD1_PARTS.items():
        given = index.get(part)
        name = given[1] if isinstance(given, list) and len(given) == 2 else None
        if not isinstance(name, str) or (classes and name not in classes):
            wanted = " or ".join(classes) or "a scheduler"
            refuse(f"model_index.json: expected {part} to be {wanted}, got {given!r}", code="unknown_family")
        inside = [file for file in files if str(file["path"]).startswith(f"{part}/")]
        if not inside:
            refuse(f"model_index.json names the part {part}, but there is no file below {part}/")
        if part in WITH_WEIGHTS and not any(ending(file) == ".safetensors" for file in inside):
            refuse(f"there is no .safetensors file below {part}/")


def _width_check(config: Mapping[str, Any]) -> None:
    if config.get("hidden_size") == SD2_TEXT_WIDTH:
        said = f"text_encoder/config.json: hidden_size {SD2_TEXT_WIDTH} is Stable Diffusion 2.x; expected 1.x"
        refuse(said, code="unknown_family", hint="Upload a Stable Diffusion 1.x model.")


def _weights_check(storage: Storage, key: str, file: Mapping[str, Any]) -> None:
    path, size = str(file["path"]), int(file["size"])
    refused_if_wrong(lambda: safetensors_check(storage, f"{key}/{path}", path, size))


def _json_object(storage: Storage, key: str, path: str) -> dict[str, Any]:
    raw = refused_if_wrong(lambda: small_read(storage, key, path))
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        refuse(f"{path} is not JSON: {error}")
    if not isinstance(value, dict):
        refuse(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
