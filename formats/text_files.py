"""Files of text: UTF-8 or nothing."""

import codecs
from pathlib import Path

from formats.rows import DatasetError

PIECE_BYTES = 1 << 20
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def text_read(file: Path, name: str, *, max_bytes: int | None = None) -> str:
    """The whole text, without its byte order mark. Raises DatasetError, whose message begins with `name`."""
    if max_bytes is not None and (size := file.stat().st_size) > max_bytes:
        raise DatasetError(f"{name} has {size} bytes; at most {max_bytes} are read")
    raw = file.read_bytes()
    _wide_check(raw, name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error.start, raw[error.start]) from None


def utf8_check(file: Path, name: str) -> None:
    """Of a file of any size. Raises DatasetError with the offset of the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with file.open("rb") as opened:
        _wide_check(opened.read(4), name)
        opened.seek(0)
        while True:
            piece = opened.read(PIECE_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                raise _not_utf8(name, offset - waiting + error.start, error.object[error.start]) from None
            if not piece:
                return
            offset += len(piece)


def _wide_check(start: bytes, name: str) -> None:
    for mark, encoding in WIDE.items():
        if start.startswith(mark):
            raise DatasetError(f"{name} is {encoding}; expected UTF-8", hint="Save it as UTF-8, then upload again.")


def _not_utf8(name: str, offset: int, byte: int) -> DatasetError:
    hint = "Save it as UTF-8 (it may be Latin-1), then upload again."
    return DatasetError(f"{name} is not UTF-8: byte {offset} is 0x{byte:02x}", hint=hint)
