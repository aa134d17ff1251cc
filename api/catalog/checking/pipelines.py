"""Image models in diffusers format: which family a folder is of, and whether it has that family's parts."""

from collections.abc import Mapping
from typing import Any

from api.catalog.checking.config_keys import pipeline_configs_check
from api.catalog.checking.lora import is_lora, lora_check
from api.catalog.checking.report import Refused
from api.catalog.checking.shapes import shapes_check
from api.catalog.checking.tensor_files import tensor_files_read
from api.catalog.checking.text import json_object
from api.catalog.checking.work import Work, ending
from formats.image_families import FAMILIES, PIPELINES, WITHOUT_WEIGHTS, family_of
from formats.safetensors_header import Tensors

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"


def pipeline_check(work: Work) -> dict[str, Any]:
    """{family, pipeline, components}. Raises Refused that names the file at fault."""
    index = json_object(work, "model_index.json")
    family = FAMILIES[_family(index)]
    parts = [part for part in family.parts if not (part in family.optional and _is_absent(index, part))]
    for part in parts:
        _part_check(part, family.parts[part], index, work.paths)
    _scheduler_check(work, family.parts["scheduler"])
    pipeline_configs_check(work)
    weighty = [part for part in parts if not part.startswith(WITHOUT_WEIGHTS)]
    configs = {part: _config(work, part) for part in weighty}
    name = _family(index, configs["text_encoder"].get("hidden_size"))
    shapes_check(name, configs, _weights_check(work, weighty))
    return {"family": name, "pipeline": index["_class_name"], "components": _components(work)}


def _family(index: Mapping[str, Any], text_width: Any = None) -> str:
    pipeline = index.get("_class_name")
    name = family_of(pipeline, text_width)
    if name is None:
        message = f"model_index.json: expected _class_name to be one of {', '.join(PIPELINES)}, got {pipeline!r:.100}"
        raise Refused(message, code="unknown_family")
    return name


def _is_absent(index: Mapping[str, Any], part: str) -> bool:
    return index.get(part) in (None, [None, None])


def _part_check(part: str, classes: tuple[str, ...], index: Mapping[str, Any], paths: list[str]) -> None:
    """A part that a trainer opens is named, of a known class, and there with safetensors where it has weights."""
    given = index.get(part)
    name = given[1] if isinstance(given, list) and len(given) == 2 else None
    if name not in classes:
        said = f"model_index.json: expected {part} to be {' or '.join(classes)}, got {given!r:.100}"
        raise Refused(said, code="unknown_family")
    inside = [path for path in paths if path.startswith(f"{part}/")]
    if not inside:
        raise Refused(f"model_index.json names the part {part}, but there is no file below {part}/")
    if not part.startswith(WITHOUT_WEIGHTS) and not any(ending(path) == ".safetensors" for path in inside):
        raise Refused(f"there is no .safetensors file below {part}/")


def _scheduler_check(work: Work, classes: tuple[str, ...]) -> None:
    """The class that trainers read, which need not be that of model_index.json."""
    if SCHEDULER_CONFIG not in work.paths:
        return
    name = json_object(work, SCHEDULER_CONFIG, allow_infinity=True).get("_class_name")
    if name not in classes:
        said = f"{SCHEDULER_CONFIG}: expected _class_name to be {' or '.join(classes)}, got {name!r:.100}"
        raise Refused(said, code="unknown_family")


def _weights_check(work: Work, parts: list[str]) -> dict[str, Tensors]:
    """The tensors of each part."""
    base: dict[str, Tensors] = {part: {} for part in parts}
    loras: dict[str, Tensors] = {}
    for path, tensors in tensor_files_read(work).items():
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
    return json_object(work, path) if path in work.paths else {}
