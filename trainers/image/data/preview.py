"""A preview of the dataset of an `image_lora` job: what happens to each file, and the first samples of the training."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from formats.datasets.images import FORMAT_ENDINGS
from trainers.contract.errors import TrainerError
from trainers.contract.events import Progress, Sample, Started
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.inspect_dataset import InspectDatasetParams
from trainers.core.context import JobContext
from trainers.image.data.batches import Plan, draw_crop, draw_text
from trainers.image.data.dataset import (
    Rows,
    augment_of,
    batch_of,
    captioned_images,
    dropout_of,
    framing_of,
    images_with_repeats,
    limit_of,
    opaque_images,
    plan_for,
    rows_of,
    token_counts,
)
from trainers.image.data.examples import CaptionedImage
from trainers.image.data.framing import Framing, View, crop_image, cropped_share, draw_change, mask_image, view_of
from trainers.image.data.image_rows import Faults, ImageHeader, ImageRow, decode, header_read
from trainers.image.data.images import tables_of
from trainers.image.models.families import family_of
from trainers.image.png import image_write

ANY_MULTIPLE = 8
"""Of sides of buckets, without a base model."""
PROGRESS_EVERY = 20
REPORTED_CROP = 0.25
"""Smallest cropped share of an image's area that is reported."""
SUFFIX_FORMATS = {ending: name for name, endings in FORMAT_ENDINGS.items() for ending in endings}
PLAIN_MODES = ("RGB", "RGBA", "RGBX")


class File(NamedTuple):
    """What happens to one image."""

    image: ImageRow
    view: View | None
    """None: it is refused."""
    notes: list[str]
    """Its changes, or why it is refused."""


def preview(job: JobContext[InspectDatasetParams]) -> dict[str, Any]:
    """The report. Files that training would refuse are listed and skipped, so that one preview shows all faults."""
    params, faults = job.params.template(), Faults()
    assert isinstance(params, ImageLoraParams)
    try:
        images = images_with_repeats(job.with_params(params), faults)
        framing = framing_of(params, _multiple(job))
        job.reporter.emit(Started(total=len(images), details={"images": len(images)}))
        files = _files(job, [image for image, _ in images], framing)
        usable = [pair for pair, file in zip(images, files, strict=False) if file.view]
        refused = [*faults, *(note for file in files if not file.view for note in file.notes)]
        if refused and not usable:
            return _refused(refused[0], refused)
        rows = rows_of(usable, params)
    except TrainerError as error:
        return _refused(error.reason.message, faults)
    plan = plan_for(params, framing, rows, batch_of(params, job.processes.world_size))
    views = [file.view for file in files if file.view]
    return {
        "refused": refused[0] if refused else "",
        "faults": refused,
        "stopped": len(files) < len(images),
        "images": len(usable),
        "rows_per_epoch": len(rows.trained),
        **_repeats(usable),
        **_splits(job, params),
        "steps_per_epoch": plan.steps_per_epoch,
        "held_out": [rows.images[place].where for place in rows.held_out],
        "shapes": dict(Counter(f"{view.shape.width}x{view.shape.height}" for view in views).most_common()),
        "captions_cut": _captions_cut(job, params, captioned_images(rows, params)),
        "without_mask": [image.where for image in opaque_images(params, rows.images)],
        "files": [_file_report(file) for file in files if file.notes],
        "samples": _samples(job, params, rows, views, plan),
    }


def _refused(message: str, faults: Sequence[str]) -> dict[str, Any]:
    return {"refused": message, "faults": [*faults], "files": [], "samples": []}


def _multiple(job: JobContext[InspectDatasetParams]) -> int:
    return family_of(job.model).pixel_multiple if job.spec.inputs.model else ANY_MULTIPLE


def _repeats(images: Sequence[tuple[ImageRow, int]]) -> dict[str, Any]:
    """How many images an epoch repeats how often, if the names of their folders have repeats."""
    by_name = Counter(image.repeats for image, _ in images)
    return {} if set(by_name) == {1} else {"repeats": {f"{times}x": count for times, count in sorted(by_name.items())}}


def _splits(job: JobContext[InspectDatasetParams], params: ImageLoraParams) -> dict[str, Any]:
    """Of the job's first dataset, if the names of its folders are splits."""
    tables = tables_of(job.dataset, params.split_of, params.image_column)
    return {"split": tables.split, "splits": tables.splits} if tables.splits else {}


def _captions_cut(
    job: JobContext[InspectDatasetParams], params: ImageLoraParams, rows: Sequence[CaptionedImage]
) -> list[str]:
    """Captions that are too long for the base model's T5, or for its CLIP if it has no T5."""
    if not job.spec.inputs.model:
        return []
    family = family_of(job.model)
    limit = limit_of(family, family.caption_tokenizer(job.model), params)
    counts = token_counts(limit, [row.texts[0] for row in rows])
    return [
        f"{row.image.where}: {count} tokens, the last {count - limit.limit} are cut"
        for row, count in zip(rows, counts, strict=True)
        if count > limit.limit
    ]


def _files(job: JobContext[InspectDatasetParams], images: Sequence[ImageRow], framing: Framing) -> list[File]:
    """All of them, or fewer after a stop request."""
    files: list[File] = []
    first_by_sha256: dict[str, str] = {}
    for done, image in enumerate(images, start=1):
        if job.control.agree_to_stop():
            break
        files.append(_file(image, framing, first_by_sha256))
        if done % PROGRESS_EVERY == 0 or done == len(images):
            job.reporter.emit(Progress(stage="reading images", done=done, total=len(images)))
    return files


def _file(image: ImageRow, framing: Framing, first_by_sha256: dict[str, str]) -> File:
    try:
        sha256 = image.sha256()
        view = view_of(image, framing, sha256)
        changes = image_changes(image, view)
    except TrainerError as error:
        return File(image, None, [error.reason.message])
    twin = first_by_sha256.setdefault(sha256, image.where)
    return File(image, view, changes if twin == image.where else [*changes, f"same content as {twin}"])


def _file_report(file: File) -> dict[str, Any]:
    notes: dict[str, Any] = {"changes": file.notes} if file.view else {"refused": file.notes[0]}
    return {"file": file.image.name, "where": file.image.where, **notes}


def _samples(
    job: JobContext[InspectDatasetParams], params: ImageLoraParams, rows: Rows, views: Sequence[View], plan: Plan
) -> list[dict[str, Any]]:
    """The first samples of the training, each a PNG of exactly the pixels that are encoded."""
    draws = (
        (step, position, rows.trained[row])
        for step in range(plan.steps_per_epoch)
        for position, row in enumerate(plan.rows(step))
    )
    examples = captioned_images(rows, params)
    samples: list[dict[str, Any]] = []
    for index, (step, position, place) in enumerate(islice(draws, job.params.num_rows)):
        image, view = rows.images[place], views[place]
        crop = draw_crop(view.crops, params.seed, step, position)
        change = draw_change(augment_of(params), params.seed, step, position)
        text = draw_text(examples[place], dropout_of(params), params.seed, step, position)
        details: dict[str, Any] = {
            "file": image.where,
            "caption": image.caption,
            "step": step + 1,
            "position": position,
            "original": list(view.original),
            "resized": list(view.resized),
            "crop": crop._asdict(),
            "change": change._asdict(),
        }
        cropped = crop_image(image, crop, interpolation=params.image_interpolation_mode, change=change)
        path = _write(job, f"sample-{index:02d}.png", cropped, text, details)
        masks: dict[str, str] = {}
        if params.masked_loss != "none":
            mask = mask_image(image, params.masked_loss, crop, change)
            masks = {"mask": _write(job, f"sample-{index:02d}-mask.png", mask, text, details)}
        samples.append({"path": path, "text": text, **details, **masks})
    return samples


def _write(
    job: JobContext[InspectDatasetParams], name: str, image: Image.Image, text: str, details: dict[str, Any]
) -> str:
    path = f"samples/{name}"
    if job.processes.rank == 0:
        image_write(job.out / path, image, {"prompt": text})
    job.reporter.emit(Sample(step=0, path=path, label=str(details["file"]), prompt=text, details=details))
    return path


def image_changes(image: ImageRow, view: View) -> list[str]:
    """Decodes all of the image. TrainerError BAD_DATASET: it cannot be trained on."""
    header = header_read(image)
    decode(image)
    return [*_format_changes(image, header), *_size_changes(view)]


def _format_changes(image: ImageRow, header: ImageHeader) -> list[str]:
    changes = []
    suffix = "" if "." not in image.name else "." + image.name.rpartition(".")[2].lower()
    promised = SUFFIX_FORMATS.get(suffix)
    if promised and header.format not in (promised, "MPO"):
        changes.append(f"named as {promised}, but contains {header.format}")
    if header.frames > 1:
        changes.append(f"only the first of {header.frames} frames is used")
    if header.orientation != 1:
        changes.append(f"rotated by EXIF orientation {header.orientation}")
    if header.has_alpha:
        changes.append("transparency composited over white")
    if header.mode.startswith("I"):
        changes.append("16 bits per channel scaled to 8")
    elif header.mode not in PLAIN_MODES and not header.has_alpha:
        changes.append(f"converted from {header.mode} to RGB")
    return changes


def _size_changes(view: View) -> list[str]:
    changes = []
    width, height = view.original
    if view.resized.width > width:
        changes.append(f"enlarged from {width} x {height} to {view.resized.width} x {view.resized.height}")
    share = cropped_share(width, height, view.shape)
    if share >= REPORTED_CROP:
        changes.append(f"{share:.0%} of its area is outside each crop of {view.shape.width} x {view.shape.height}")
    return changes
