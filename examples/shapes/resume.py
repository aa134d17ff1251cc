"""Checkpoints of a long training: written atomically, loaded by rerunning the same command."""

from pathlib import Path
from typing import Any

import torch


def checkpoint_save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def checkpoint_load(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None for a fresh start."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
