"""What an `image_lora` job would see of its dataset: every file's fate, and the first samples as they are drawn."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from formats.images import FORMAT_ENDINGS
from trainers.contract.errors import TrainerError
from trainers.contract.events import Progress, Sample, Started
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.inspect_dataset import InspectDatasetParams
from trainers.core.context import JobContext
from trainers.image.data.augment import draw_change
from trainers.image.data.batches import Plan, draw_crop, draw_text
from trainers.image.data.buckets import cropped_share
from trainers.image.data.dataset import (
    augment_of,
    batch_of,
    dropout_of,
    framing_of,
    limit_of,
    opaque_images,
    plan_for,
    token_counts,
)
from trainers.image.data.examples import Row
from trainers.image.data.folder import tables_of
from trainers.image.data.framing import Framing, View, view_of
from trainers.image.data.image_rows import Faults, ImageRow
from trainers.image.data.masks import mask_image
from trainers.image.data.pixels import ImageHeader, crop_image, decode, header_read
from trainers.image.data.rows import Rows, captioned_images, images_with_repeats, rows_of
from trainers.image.models.families import family_of
from trainers.image.png import image_write

ANY_MULTIPLE = 8
"""Of sides of buckets, where no base model says."""
PROGRESS_EVERY = 20


class File(NamedTuple):
    """What becomes of one image."""

    image: ImageRow
    view: View | None
    """None: it is refused."""
    said: list[str]
    """Its changes, or why it is refused."""


def preview(job: JobContext[InspectDatasetParams]) -> dict[str, Any]:
    """The report. What training would refuse is named and left out of the rest, so that one look finds everything."""
    params, faults = job.params.template(), Faults()
    assert isinstance(params, ImageLoraParams)
    try:
        images = images_with_repeats(job.with_params(params), faults)
        framing = framing_of(params, _multiple(job))
        job.reporter.emit(Started(total=len(images), details={"images": len(images)}))
        files = _files(job, [image for image, _ in images], framing)
        fit = [pair for pair, file in zip(images, files, strict=False) if file.view]
        refused = [*faults, *(said for file in files if not file.view for said in file.said)]
        if refused and not fit:
            return _refused(refused[0], refused)
        rows = rows_of(fit, params)
    except TrainerError as error:
        return _refused(error.reason.message, faults)
    plan = plan_for(params, framing, rows, batch_of(params, job.processes.world_size))
    views = [file.view for file in files if file.view]
    return {
        "refused": refused[0] if refused else "",
        "faults": refused,
        "stopped": len(files) < len(images),
        "images": len(fit),
        "rows_per_epoch": len(rows.trained),
        **_repeats(fit),
        **_splits(job, params),
        "steps_per_epoch": plan.steps_per_epoch,
        "held_out": [rows.images[place].where for place in rows.held_out],
        "shapes": dict(Counter(f"{view.shape.width}x{view.shape.height}" for view in views).most_common()),
        "captions_cut": _captions_cut(job, params, captioned_images(rows, params)),
        "without_mask": [image.where for image in opaque_images(params, rows.images)],
        "files": [_told(file) for file in files if file.said],
        "samples": _samples(job, params, rows, views, plan),
    }


def _refused(message: str, faults: Sequence[str]) -> dict[str, Any]:
    return {"refused": message, "faults": [*faults], "files": [], "samples": []}


def _multiple(job: JobContext[InspectDatasetParams]) -> int:
    return family_of(job.model).PIXEL_MULTIPLE if job.spec.inputs.model else ANY_MULTIPLE


def _repeats(images: Sequence[tuple[ImageRow, int]]) -> dict[str, Any]:
    """How many images an epoch sees how often, where the names of their folders say so."""
    by_name = Counter(image.repeats for image, _ in images)
    return {} if set(by_name) == {1} else {"repeats": {f"{times}x": count for times, count in sorted(by_name.items())}}


def _splits(job: JobContext[InspectDatasetParams], params: ImageLoraParams) -> dict[str, Any]:
    """Of the job's own dataset, where the names of its folders say splits."""
    tables = tables_of(job.dataset, params.split_of)
    return {"split": tables.split, "splits": tables.splits} if tables.splits else {}


def _captions_cut(job: JobContext[InspectDatasetParams], params: ImageLoraParams, rows: Sequence[Row]) -> list[str]:
    """Captions that are too long for the base model's T5, or for its CLIP where it has none."""
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
    """All of them, or fewer where a stop was wanted."""
    found: list[File] = []
    first: dict[str, str] = {}
    for done, image in enumerate(images, start=1):
        if job.control.agree_to_stop():
            break
        found.append(_file(image, framing, first))
        if done % PROGRESS_EVERY == 0 or done == len(images):
            job.reporter.emit(Progress(stage="reading images", done=done, total=len(images)))
    return found


def _file(image: ImageRow, framing: Framing, first: dict[str, str]) -> File:
    """`first` remembers which image had a content first."""
    try:
        sha256 = image.sha256()
        view = view_of(image, framing, sha256)
        said = image_changes(image, view)
    except TrainerError as error:
        return File(image, None, [error.reason.message])
    twin = first.setdefault(sha256, image.where)
    return File(image, view, said if twin == image.where else [*said, f"the same bytes as {twin}"])


def _told(file: File) -> dict[str, Any]:
    what: dict[str, Any] = {"changes": file.said} if file.view else {"refused": file.said[0]}
    return {"file": file.image.name, "where": file.image.where, **what}


def _samples(
    job: JobContext[InspectDatasetParams], params: ImageLoraParams, rows: Rows, views: Sequence[View], plan: Plan
) -> list[dict[str, Any]]:
    """The first samples of the training, each a PNG of exactly the pixels that are encoded."""
    drawn = (
        (step, position, rows.trained[row])
        for step in range(plan.steps_per_epoch)
        for position, row in enumerate(plan.rows(step))
    )
    examples = captioned_images(rows, params)
    found: list[dict[str, Any]] = []
    for index, (step, position, place) in enumerate(islice(drawn, job.params.num_rows)):
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
        cut = crop_image(image, crop, interpolation=params.image_interpolation_mode, change=change)
        path = _write(job, f"sample-{index:02d}.png", cut, text, details)
        masks: dict[str, str] = {}
        if params.masked_loss != "none":
            mask = mask_image(image, params.masked_loss, crop, change)
            masks = {"mask": _write(job, f"sample-{index:02d}-mask.png", mask, text, details)}
        found.append({"path": path, "text": text, **details, **masks})
    return found


def _write(
    job: JobContext[InspectDatasetParams], name: str, image: Image.Image, text: str, details: dict[str, Any]
) -> str:
    path = f"samples/{name}"
    if job.processes.rank == 0:
        image_write(job.out / path, image, {"prompt": text})
    job.reporter.emit(Sample(step=0, path=path, label=str(details["file"]), prompt=text, details=details))
    return path


CUT_SAID = 0.25
"""Share of the area that is cut away from which on it is said."""
SUFFIX_FORMATS = {ending: name for name, endings in FORMAT_ENDINGS.items() for ending in endings}
PLAIN_MODES = ("RGB", "RGBA", "RGBX")


def image_changes(image: ImageRow, view: View) -> list[str]:
    """Decodes the whole image. TrainerError BAD_DATASET: it cannot be trained on."""
    seen = header_read(image)
    decode(image)
    return [*_format_changes(image, seen), *_size_changes(view)]


def _format_changes(image: ImageRow, seen: ImageHeader) -> list[str]:
    found = []
    suffix = "" if "." not in image.name else "." + image.name.rpartition(".")[2].lower()
    promised = SUFFIX_FORMATS.get(suffix)
    if promised and seen.format not in (promised, "MPO"):
        found.append(f"its name says {promised}, its content is {seen.format}")
    if seen.frames > 1:
        found.append(f"the first of its {seen.frames} frames is taken")
    if seen.orientation != 1:
        found.append(f"turned upright by its EXIF orientation {seen.orientation}")
    if seen.has_alpha:
        found.append("transparency laid on white")
    if seen.mode.startswith("I"):
        found.append("16 bits a channel scaled to 8")
    elif seen.mode not in PLAIN_MODES and not seen.has_alpha:
        found.append(f"{seen.mode} made RGB")
    return found


def _size_changes(view: View) -> list[str]:
    found = []
    width, height = view.original
    if view.resized.width > width:
        found.append(f"enlarged from {width} x {height} to {view.resized.width} x {view.resized.height}")
    share = cropped_share(width, height, view.shape)
    if share >= CUT_SAID:
        found.append(f"{share:.0%} of its area lies outside each crop of {view.shape.width} x {view.shape.height}")
    return found
