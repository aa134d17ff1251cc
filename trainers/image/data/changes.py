"""What becomes of an image's file before it is trained on, in sentences."""

from formats.images import FORMAT_ENDINGS
from trainers.image.data.buckets import cut_share
from trainers.image.data.framing import View
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.pixels import Seen, decoded, header_read

CUT_SAID = 0.25
"""Share of the area that is cut away from which on it is said."""
SUFFIX_FORMATS = {ending: name for name, endings in FORMAT_ENDINGS.items() for ending in endings}
PLAIN_MODES = ("RGB", "RGBA", "RGBX")


def changes_of(image: ImageRow, view: View) -> list[str]:
    """Decodes the whole image. TrainerError BAD_DATASET: it cannot be trained on."""
    seen = header_read(image)
    decoded(image)
    return [*_format_changes(image, seen), *_size_changes(view)]


def _format_changes(image: ImageRow, seen: Seen) -> list[str]:
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
    share = cut_share(width, height, view.shape)
    if share >= CUT_SAID:
        found.append(f"{share:.0%} of its area lies outside each crop of {view.shape.width} x {view.shape.height}")
    return found
