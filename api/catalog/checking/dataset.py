"""A dataset: images with captions, rows of text, or a LoRA to import. Which of them, its files say."""

from typing import Any

from api.catalog.checking.image_set import images_check
from api.catalog.checking.report import HINT as REPORT_HINT
from api.catalog.checking.report import Refused
from api.catalog.checking.row_set import parquet, rows_check
from api.catalog.checking.tensor_files import finite_check, tensors_read
from api.catalog.checking.work import Work, ending
from formats.datasets.images import IMAGE_ENDINGS, image_paths
from formats.datasets.rows import PLAIN_ENDING, ROW_ENDINGS, row_files
from formats.datasets.splits import split_folder, splits_of
from formats.models.adaptors import DOWN, other_kind
from formats.models.safetensors_header import Tensors
from formats.models.single_file import Checkpoint, CheckpointError, checkpoint_of

VECTORS = (".svg", ".svgz", ".eps", ".ai", ".pdf")
HINT = "Only LoRA files can be imported: diffusers, PEFT or kohya."


def check(work: Work) -> dict[str, Any]:
    """`details` of the version. Raises Refused."""
    for path in work.paths:
        if ending(path) in VECTORS:
            raise Refused(f"{path}: vector drawings are not accepted", hint="Export it as PNG, then upload again.")
    _empty_check(work)
    if image_paths(work.paths):
        return images_check(work)
    if is_weight_set(work.paths):
        return weight_set_check(work)
    tables = row_files(work.paths)
    if not tables:
        images, rows = " ".join(IMAGE_ENDINGS), " ".join((*ROW_ENDINGS, PLAIN_ENDING))
        raise Refused(
            f"expected at least one image ({images}), one file of rows ({rows}) or one LoRA (.safetensors), got "
            f"{len(work.paths)} files and none of them, the first is {work.paths[0]}",
            hint="A zip is unpacked where its upload says `unpack: true`.",
        )
    packed = [path for path in tables if ending(path) == ".parquet" and parquet().has_images(work.open(path), path)]
    if not packed:
        return rows_check(work, tables)
    if len(packed) < len(work.paths):
        other = next(path for path in work.paths if path not in packed)
        raise Refused(f"{packed[0]} holds images and cannot be mixed with other files, as {other}")
    return _unpacked(work, packed)


def _empty_check(work: Work) -> None:
    """Raises Refused that names every file of zero bytes that should hold something; an empty caption is a notice."""
    filled = (*IMAGE_ENDINGS, *ROW_ENDINGS, ".safetensors")
    empty = [str(file["path"]) for file in work.files if not file["size"] and ending(str(file["path"])) in filled]
    if empty:
        hint = "Leave it out or send it again: its copy may have been cut off."
        raise Refused(*(f"{path} has zero bytes" for path in empty), hint=hint)


def _unpacked(work: Work, packed: list[str]) -> dict[str, Any]:
    """Parquet files of images become image files and a metadata.jsonl, which every image method can read."""
    folder_made = work.target / "files"
    splits = splits_of(packed)
    for split, paths in (splits if len(splits) > 1 else {"": packed}).items():
        folder = folder_made / split_folder(split) if split else folder_made
        count = parquet().images_unpack([(work.open(path), path) for path in paths], folder, work.decoded)
        for path in paths:
            message = f"{path} became image files and metadata.jsonl ({count} images)"
            work.notices.add("unpacked", message, file=path)
    work.replace_with(folder_made)
    return images_check(work)


def is_weight_set(paths: list[str]) -> bool:
    """One safetensors file, perhaps with its configuration beside it."""
    endings = [ending(path) for path in paths]
    return endings.count(".safetensors") == 1 and set(endings) <= {".safetensors", ".json", ".md", ".txt", ""}


def weight_set_check(work: Work) -> dict[str, Any]:
    """{kind, num_modules, ranks} of a LoRA, {kind, checkpoint} of a single-file checkpoint. Raises Refused."""
    path = next(path for path in work.paths if ending(path) == ".safetensors")
    tensors = tensors_read(work.open(path), path)
    finite_check(work.open(path), path, tensors)
    if other := other_kind(tensors):
        raise Refused(f"{path} holds a {other[1]}; expected a LoRA", code="not_a_lora", hint=HINT)
    if checkpoint := _checkpoint(tensors, path):
        return {"kind": "weights", "checkpoint": {"family": checkpoint.family, "parts": sorted(checkpoint.parts)}}
    ranks = {tensor.shape[0] for title, tensor in tensors.items() if title.endswith(DOWN) and tensor.shape}
    if not ranks:
        first = next(iter(tensors), "nothing")
        raise Refused(f"{path} holds no LoRA: the first tensor is {first[:200]!r}", code="not_a_lora", hint=HINT)
    for unused in sorted(set(work.paths) - {path}):
        work.notices.add("not used", f"{unused} holds no weights and is not used", file=unused)
    modules = sum(title.endswith(DOWN) for title in tensors)
    return {"kind": "weights", "num_modules": modules, "ranks": sorted(ranks)}


def _checkpoint(tensors: Tensors, path: str) -> Checkpoint | None:
    try:
        return checkpoint_of(tensors)
    except CheckpointError as error:
        raise Refused(f"{path}: {error}", code="single_file", hint=error.hint or REPORT_HINT) from None
