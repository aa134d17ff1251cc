"""The trainer's manifest: its existence claims that all the rest is whole, which is checked here."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from worker.transfer.out_folder import OutFolder, UnsafeFileError

NAME = "manifest.json"
MAX_BYTES = 64 << 20
"""Room for the records of some 300,000 files."""


class ManifestFile(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str
    size: int
    sha256: str


class Head(BaseModel):
    """The part of a manifest that the worker reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    outcome: str
    files: tuple[ManifestFile, ...] = ()


@dataclass(frozen=True)
class Manifest:
    content: dict[str, Any]
    outcome: str
    """succeeded or stopped."""
    files: tuple[ManifestFile, ...]


def manifest_read(out: OutFolder) -> Manifest | str:
    """The manifest in `out`, or the sentence that says why there is no whole one."""
    try:
        data = out.read(NAME, limit=MAX_BYTES + 1)
    except FileNotFoundError:
        return "there is no manifest.json"
    except UnsafeFileError as error:
        return str(error)
    if len(data) > MAX_BYTES:
        return f"manifest.json has more than {MAX_BYTES} bytes"
    try:
        content = json.loads(data)
        head = Head.model_validate(content)
    except (ValueError, RecursionError) as error:
        return f"manifest.json cannot be read: {str(error)[:1000]}"
    if head.outcome not in ("succeeded", "stopped"):
        return f"manifest.json has outcome {head.outcome!r}, expected 'succeeded' or 'stopped'"
    problems = [problem for file in head.files if (problem := _problem(out, file))]
    return problems[0] if problems else Manifest(content, head.outcome, head.files)


def _problem(out: OutFolder, file: ManifestFile) -> str:
    try:
        size = out.size(file.path)
    except FileNotFoundError:
        return f"manifest.json names {file.path}, which is not there"
    except UnsafeFileError as error:
        return f"manifest.json names a file that is refused: {error}"
    return "" if size == file.size else f"{file.path} has {size} bytes, manifest.json says {file.size}"
