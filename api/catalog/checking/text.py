"""Small files of JSON."""

from typing import Any

from api.catalog.checking.report import Refused, dataset_refusals
from api.catalog.checking.work import Work
from formats.text_files import text_read
from foundation.strict_json import JsonError, json_object_read

SMALL_BYTES = 32 << 20
"""Largest metadata, caption or configuration file that is read."""


def json_object(work: Work, path: str, *, allow_infinity: bool = False) -> dict[str, Any]:
    """Raises Refused where it is no JSON object, has a key twice or is nested too deeply."""
    with dataset_refusals():
        text = text_read(work.open(path), path, max_bytes=SMALL_BYTES)
    try:
        return json_object_read(text, path, allow_infinity=allow_infinity)
    except JsonError as error:
        raise Refused(str(error)) from None
