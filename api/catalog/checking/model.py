"""A base model's files: diffusers format, safetensors that are whole and finite, a known family."""

import json
from collections.abc import Mapping
from typing import Any

from api.catalog.checking.lora import is_lora, lora_check
from api.catalog.checking.report import Refused
from api.catalog.checking.shapes import shapes_check
from api.catalog.checking.text import text_read
from api.catalog.checking.weights import Tensors, finite_check, tensors_read
from api.catalog.checking.work import Work, ending

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


def check(work: Work) -> dict[str, Any]:
    """{family, pipeline, components}. Raises Refused that names the file at fault."""
    _pickles_check(work.paths)
    if "model_index.json" not in work.paths:
        raise Refused("expected a folder in diffusers format with model_index.json, got none", code="not_diffusers")
    index = _json_object(work, "model_index.json")
    family = _family(index)
    _parts_check(index, work.paths)
    configs = {part: _config(work, part) for part in WITH_WEIGHTS}
    if configs["text_encoder"].get("hidden_size") == SD2_TEXT_WIDTH:
        said = f"text_encoder/config.json: hidden_size {SD2_TEXT_WIDTH} is Stable Diffusion 2.x; expected 1.x"
        raise Refused(said, code="unknown_family", hint="Upload a Stable Diffusion 1.x model.")
    shapes_check(configs, _weights_check(work))
    return {"family": family, "pipeline": index["_class_name"], "components": _components(work)}


def _pickles_check(paths: list[str]) -> None:
    for path in paths:
        if ending(path) in PICKLES:
            raise Refused(
                f"{path}: pickled weights can run code when they are opened; expected .safetensors",
                code="pickle_refused",
                hint="Save the model with safe_serialization=True, then upload again.",
            )
        if ending(path) in CODE:
            raise Refused(f"{path}: a base model may not bring code; leave the file out")


def _family(index: Mapping[str, Any]) -> str:
    pipeline = index.get("_class_name")
    family = FAMILY_OF_PIPELINE.get(pipeline) if isinstance(pipeline, str) else None
    if family is None:
        known = ", ".join(FAMILY_OF_PIPELINE)
        said = f"model_index.json: expected _class_name to be one of {known}, got {pipeline!r:.100}"
        raise Refused(said, code="unknown_family")
    return family


def _parts_check(index: Mapping[str, Any], paths: list[str]) -> None:
    """Each part that a trainer opens is named, of a known class, and there with safetensors where it has weights."""
    for part, classes in SD1_PARTS.items():
        given = index.get(part)
        name = given[1] if isinstance(given, list) and len(given) == 2 else None
        if not isinstance(name, str) or (classes and name not in classes):
            wanted = " or ".join(classes) or "a scheduler"
            said = f"model_index.json: expected {part} to be {wanted}, got {given!r:.100}"
            raise Refused(said, code="unknown_family")
        inside = [path for path in paths if path.startswith(f"{part}/")]
        if not inside:
            raise Refused(f"model_index.json names the part {part}, but there is no file below {part}/")
        if part in WITH_WEIGHTS and not any(ending(path) == ".safetensors" for path in inside):
            raise Refused(f"there is no .safetensors file below {part}/")


def _weights_check(work: Work) -> dict[str, Tensors]:
    """The tensors of each part."""
    base: dict[str, Tensors] = {part: {} for part in WITH_WEIGHTS}
    loras: dict[str, Tensors] = {}
    for path in work.paths:
        if ending(path) != ".safetensors":
            continue
        tensors = tensors_read(work.open(path), path)
        finite_check(work.open(path), path, tensors)
        if is_lora(tensors):
            loras[path] = tensors
        elif (part := path.split("/")[0]) in base:
            base[part].update(tensors)
    for path, tensors in loras.items():
        lora_check(path, tensors, base, work.notices)
    return base


def _components(work: Work) -> dict[str, int]:
    """Bytes by part; what lies at the top counts for none."""
    sizes: dict[str, int] = {}
    for file in work.files:
        part, inside, _ = str(file["path"]).partition("/")
        if inside:
            sizes[part] = sizes.get(part, 0) + int(file["size"])
    return sizes


def _config(work: Work, part: str) -> dict[str, Any]:
    path = f"{part}/config.json"
    return _json_object(work, path) if path in work.paths else {}


def _json_object(work: Work, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text_read(work, path))
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
