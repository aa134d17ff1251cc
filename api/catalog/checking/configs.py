"""Configuration files of a base model: what trainers would refuse is refused here, by the same description."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api.catalog.checking.report import Refused, dataset_refusals
from api.catalog.checking.work import Work
from formats.datasets.rows import text_read
from formats.models.configs import ConfigError
from formats.models.image_configs import pipeline_keys_ignored
from formats.models.text_configs import text_keys_ignored
from foundation.strict_json import JsonError, json_object_read

NAMED = 40
"""Keys that the notice names; the rest is counted."""
SMALL_BYTES = 32 << 20
"""Largest metadata, caption or configuration file that is read."""


def pipeline_configs_check(work: Work) -> None:
    """Raises Refused with file, key, value and what was expected. Adds one notice for the keys that are not read."""
    work.open("model_index.json")
    with _refusals():
        ignored = pipeline_keys_ignored(work.folder)
    _notice(work, ignored, "model_index.json")


def text_configs_check(work: Work, family: str) -> None:
    work.open("config.json")
    with _refusals():
        ignored = text_keys_ignored(work.folder, family)
    _notice(work, ignored, "config.json")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise Refused(*error.faults, code="bad_config") from None
    except JsonError as error:
        raise Refused(str(error), code="bad_config") from None


def _notice(work: Work, ignored: tuple[str, ...], file: str) -> None:
    if ignored:
        more = f" and {len(ignored) - NAMED} more" if len(ignored) > NAMED else ""
        keys = ", ".join(key[:200] for key in ignored[:NAMED])
        work.notices.add("keys that are not read", f"no job reads these keys: {keys}{more}", file=file)


def json_object(work: Work, path: str, *, allow_infinity: bool = False) -> dict[str, Any]:
    """Raises Refused where it is no JSON object, has a key twice or is nested too deeply."""
    with dataset_refusals():
        text = text_read(work.open(path), path, max_bytes=SMALL_BYTES)
    try:
        return json_object_read(text, path, allow_infinity=allow_infinity)
    except JsonError as error:
        raise Refused(str(error)) from None
