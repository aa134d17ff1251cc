"""A training's events as TensorBoard's files."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from trainers.contract.events import Payload, Sample, Step, Validation

FLUSH_SECONDS = 10
"""After so long a point is in TensorBoard's file, which is followed while the job runs."""


class TensorBoard:
    """Writes `out/tensorboard/` from the events. After a resume, points past `start_step` are superseded."""

    def __init__(self, out: Path, start_step: int) -> None:
        self._out = out
        purge_step = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=purge_step, flush_secs=FLUSH_SECONDS)

    def __call__(self, payload: Payload) -> None:
        if isinstance(payload, Step):
            self._scalars("train", payload.step, payload.metrics | {f"{payload.unit}_per_second": payload.per_second})
        elif isinstance(payload, Validation):
            self._scalars("validation", payload.step, payload.metrics)
        elif isinstance(payload, Sample) and payload.path.endswith(".json"):
            text = f"**{payload.prompt}**\n\n{payload.details.get('text', '')}"
            self._writer.add_text(payload.label or payload.path, text, payload.step)
        elif isinstance(payload, Sample):
            with Image.open(self._out / payload.path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(payload.label or payload.path, pixels, payload.step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()

    def _scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
