"""Writes images as PNG files with metadata, and the comparison sheet."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from foundation.atomic import bytes_write

CELL = 256
"""Pixels: images on the sheet are enlarged to at least this size."""
GAP = 12
FONT_SIZE = 20
BACKGROUND, TEXT_COLOR = "white", "black"


def image_write(path: Path, image: Image.Image, facts: Mapping[str, Any]) -> None:
    """Writes a PNG; each of `facts` becomes one text entry, values other than strings as JSON."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    bytes_write(path, content.getvalue())


def comparison_sheet(columns: Mapping[str, Sequence[Image.Image]], row_labels: Sequence[str]) -> Image.Image:
    """One column per label, one row per seed; column `label` has as many images as there are row labels."""
    font = ImageFont.load_default(FONT_SIZE)
    cell_width, cell_height = _cell_size(next(iter(columns.values()))[0])
    margin = GAP * 2 + max(int(font.getlength(label)) for label in row_labels)
    header = FONT_SIZE + GAP * 2
    size = (margin + len(columns) * (cell_width + GAP), header + len(row_labels) * (cell_height + GAP))
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(row_labels):
        middle = header + row * (cell_height + GAP) + cell_height // 2
        draw.text((GAP, middle), label, fill=TEXT_COLOR, font=font, anchor="lm")
    for column, (label, images) in enumerate(columns.items()):
        left = margin + column * (cell_width + GAP)
        draw.text((left + cell_width // 2, header // 2), label, fill=TEXT_COLOR, font=font, anchor="mm")
        for row, image in enumerate(images):
            enlarged = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, header + row * (cell_height + GAP)))
    return sheet


def _cell_size(image: Image.Image) -> tuple[int, int]:
    """The image's size, enlarged by an integer factor until its longer side reaches CELL."""
    factor = max(1, -(-CELL // max(image.size)))
    return image.width * factor, image.height * factor
