"""Secrets out of logs: known values and the shapes of tokens, on whole lines."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = b"[masked]"
SHAPES = (
    rb"\b(?:ant|anw|ana|hf)_[A-Za-z0-9_-]{16,}",
    rb"\bwandb_v1_[A-Za-z0-9_-]{16,}",
    rb"(?:X-Amz-Signature|X-Amz-Credential|signature)=[A-Za-z0-9%_./=-]{16,}",
)
WANDB_KEY = rb"\b[0-9a-f]{40}\b"


class Masker:
    """Replaces secrets in bytes. Values shorter than 8 characters are left: masking them would tear ordinary words."""

    def __init__(self, values: Iterable[str]) -> None:
        known = [value for value in values if len(value) >= 8]
        quoted = [form for value in known for form in (_in_json(value), quote(value, safe=""))]
        self._line = re.compile(b"|".join((*_escaped([*known, *quoted]), *SHAPES, WANDB_KEY)))
        self._event = re.compile(b"|".join((*_escaped(quoted), *SHAPES)))

    def line(self, line: bytes) -> bytes:
        return self._line.sub(MASK, line)

    def event(self, line: bytes) -> bytes:
        """For events.jsonl, where 40 hex digits are a revision, not a W&B key. The JSON stays whole."""
        return self._event.sub(MASK, line)


def _in_json(value: str) -> str:
    return json.dumps(value)[1:-1]


def _escaped(values: Iterable[str]) -> list[bytes]:
    """The longest first, so that no part of one is left."""
    return sorted({re.escape(value.encode()) for value in values}, key=len, reverse=True)
