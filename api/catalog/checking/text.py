"""Small text files, read whole: UTF-8 or nothing."""

import codecs
from typing import Any

from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from foundation.strict_json import JsonError, json_object_read

SMALL_BYTES = 32 << 20
"""Largest metadata, caption or configuration file that is read whole."""
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def text_read(work: Work, path: str) -> str:
    """Without its byte order mark. Raises Refused with the offset of the first byte that is not UTF-8."""
    file = work.open(path)
    size = file.stat().st_size
    if size > SMALL_BYTES:
        raise Refused(f"{path} has {size} bytes; at most {SMALL_BYTES} are read")
    raw = file.read_bytes()
    encoding_check(raw, path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.start, raw[error.start]) from None


def json_object(work: Work, path: str, *, allow_infinity: bool = False) -> dict[str, Any]:
    """Raises Refused where it is no JSON object, has a key twice or is nested too deeply."""
    try:
        return json_object_read(text_read(work, path), path, allow_infinity=allow_infinity)
    except JsonError as error:
        raise Refused(str(error)) from None


def encoding_check(start: bytes, path: str) -> None:
    for mark, encoding in WIDE.items():
        if start.startswith(mark):
            raise Refused(f"{path} is {encoding}; expected UTF-8", hint="Save it as UTF-8, then upload again.")


def not_utf8(path: str, offset: int, byte: int) -> Refused:
    said = f"{path} is not UTF-8: byte {offset} is 0x{byte:02x}"
    return Refused(said, hint="Save it as UTF-8 (it may be Latin-1), then upload again.")
