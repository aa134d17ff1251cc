"""Archives as tests need them, good and bad, made by hand."""

import io
import zipfile
from collections.abc import Mapping

from tests.api.actors import Files


def zipped(files: Files, attributes: Mapping[str, int] | None = None) -> bytes:
    """A zip of those files; `attributes`: Unix modes by path."""
    return zipped_in_order(list(files.items()), attributes)


def zipped_in_order(files: list[tuple[str, bytes]], attributes: Mapping[str, int] | None = None) -> bytes:
    """Names may come twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files:
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (attributes or {}).get(path, 0o100600) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
