"""The trainer's manifest: its existence claims that all the rest is whole, which is checked here."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


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


def manifest_read(out: Path) -> Manifest | str:
    """The manifest in `out`, or the sentence that says why there is no whole one."""
    path = out / "manifest.json"
    if not path.exists():
        return "there is no manifest.json"
    try:
        content = json.loads(path.read_bytes())
        head = Head.model_validate(content)
    except (ValueError, ValidationError) as error:
        return f"manifest.json cannot be read: {error}"
    if head.outcome not in ("succeeded", "stopped"):
        return f"manifest.json has outcome {head.outcome!r}, expected 'succeeded' or 'stopped'"
    problems = [problem for file in head.files if (problem := _problem(out, file))]
    return problems[0] if problems else Manifest(content, head.outcome, head.files)


def _problem(out: Path, file: ManifestFile) -> str:
    parts = PurePosixPath(file.path).parts
    if not parts or file.path.startswith("/") or ".." in parts:
        return f"manifest.json names {file.path!r}, which is not inside out/"
    path = out / file.path
    if not path.is_file():
        return f"manifest.json names {file.path}, which is not there"
    if path.stat().st_size != file.size:
        return f"{file.path} has {path.stat().st_size} bytes, manifest.json says {file.size}"
    return ""
