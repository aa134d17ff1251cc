"""Writes a base model in the diffusers layout."""

import json
from pathlib import Path

from foundation.atomic import bytes_write
from trainers.image.models.base import Base


def save(base: Base, folder: Path) -> None:
    """Every part as safetensors below `folder`, and the base's own scheduler config; stock diffusers opens it."""
    base.pipeline().save_pretrained(folder, safe_serialization=True)
    config = json.dumps(base.scheduler_config, indent=2, sort_keys=True)
    bytes_write(folder / "scheduler" / "scheduler_config.json", config.encode())
