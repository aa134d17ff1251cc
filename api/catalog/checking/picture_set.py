"""Pictures of a dataset: decoded one by one, then matched with their captions."""

from typing import Any

from api.catalog.checking.captions import captions_read
from api.catalog.checking.decode import Seen, picture_see
from api.catalog.checking.header import PICTURE_ENDINGS
from api.catalog.checking.preview import shortened
from api.catalog.checking.work import Work, ending

KIND_ENDINGS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}


def pictures_check(work: Work) -> dict[str, Any]:
    """{kind, num_pictures, num_captions, ...}. Raises Refused that names the file or line at fault."""
    paths = [path for path in work.paths if ending(path) in PICTURE_ENDINGS]
    seen = {path: _seen(work, number, path) for number, path in enumerate(paths)}
    _duplicates_notice(work, set(paths))
    captions = captions_read(work, set(paths))
    for number, path in enumerate(paths):
        caption = captions.texts.get(path)
        work.preview.add(_item(number, path, seen[path], shortened(caption)))
    work.preview.finish()
    return {
        "kind": "pictures",
        "num_pictures": len(paths),
        "num_captions": captions.total,
        "num_preview": work.preview.count,
    }


def _seen(work: Work, number: int, path: str) -> Seen:
    seen = picture_see(work.open(path), path, work.preview.folder / _thumbnail(number))
    if ending(path) not in KIND_ENDINGS[seen.kind]:
        work.notices.add("other type than its name says", f"{path} is a {seen.kind}, and is used as one", file=path)
    return seen


def _duplicates_notice(work: Work, pictures: set[str]) -> None:
    first: dict[str, str] = {}
    for file in work.files:
        path = str(file["path"])
        if path in pictures and (other := first.setdefault(file["sha256"], path)) != path:
            work.notices.add("the same picture twice", f"{path} is byte for byte {other}", file=path)


def _item(number: int, path: str, seen: Seen, caption: str | None) -> dict[str, Any]:
    return {
        "path": path,
        "caption": caption,
        "width": seen.width,
        "height": seen.height,
        "type": seen.kind,
        "thumbnail": _thumbnail(number),
    }


def _thumbnail(number: int) -> str:
    return f"{number:06d}.jpg"
