"""What images tell beside their pixels (GPS, camera, comments), and taking it out."""

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from formats.datasets.image_metadata import metadata_removed

GPS_IFD, EXIF_IFD = 0x8825, 0x8769
TELLING_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""Description, make, model, software, date, artist, copyright."""
TELLING_INFO = ("xmp", "comment", "photoshop", "XML:com.adobe.xmp", "parameters", "Description", "Author")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def has_gps(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(GPS_IFD)) or b"GPSLatitude" in _xmp(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError):
        return False


def has_metadata(image: Image.Image) -> bool:
    """Whether it tells anything beside its pixels, colours and orientation."""
    try:
        exif = image.getexif()
        tells = any(tag in exif for tag in TELLING_TAGS) or bool(exif.get_ifd(EXIF_IFD))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError):
        tells = True
    return tells or any(image.info.get(name) for name in TELLING_INFO)


def metadata_strip(work: Work, orientations: dict[str, int]) -> None:
    """Rewrites the images (path: orientation), losslessly. Raises Refused where that cannot be."""

    def stripped(path: str) -> bytes:
        file = work.open(path)
        data = metadata_removed(file.read_bytes(), orientations[path])
        return data if data is not None else _as_png(file, path)

    work.rewrite_all((path, stripped(path)) for path in orientations)


def _as_png(file: Path, path: str) -> bytes:
    """Its pixels, upright, under the name that captions know."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in PNG_MODES:
            hint = "Save it as PNG or JPEG, then upload again."
            raise Refused(f"{path}: metadata cannot be taken out of its {upright.mode} pixels", hint=hint)
        profile, transparency = image.info.get("icc_profile"), image.info.get("transparency")
        upright.info = {} if transparency is None else {"transparency": transparency}
        buffer = BytesIO()
        upright.save(buffer, "PNG", icc_profile=profile)
        return buffer.getvalue()


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return xmp if isinstance(xmp, bytes) else str(xmp).encode(errors="replace")
