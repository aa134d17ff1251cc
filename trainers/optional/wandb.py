"""The adapter of wandb: a listener that sends a job's metrics and images to Weights & Biases."""

import html
import os
import shutil
from pathlib import Path
from typing import Any

import wandb

from trainers.contract.events import Payload, Sample, Step, Validation
from trainers.contract.spec import JobSpec

DEFAULT_PROJECT = "anneal"


class WandB:
    """One run of an attempt; attempts of one job are a group. The key comes from WANDB_API_KEY alone.

    Without a key, or if the service refuses it, the run is kept below `out/wandb/`; `wandb sync` uploads it.
    """

    def __init__(self, out: Path, spec: JobSpec, project: str) -> None:
        self._out = out
        self._spec = spec
        self._project = project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        self.problem = ""
        """Why the run is kept in files although there is a key."""
        self._run = self._start("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def __call__(self, payload: Payload) -> None:
        if isinstance(payload, Step):
            values: dict[str, Any] = payload.metrics | {f"{payload.unit}_per_second": payload.per_second}
            self._log("train", payload.step, values | {"peak_memory_bytes": payload.peak_memory_bytes})
        elif isinstance(payload, Validation):
            self._log("validation", payload.step, payload.metrics)
        elif isinstance(payload, Sample) and payload.path.endswith(".json"):
            text = wandb.Html(html.escape(f"{payload.prompt} -> {payload.details.get('text', '')}"))
            self._log("samples", payload.step, {payload.label or payload.path: text})
        elif isinstance(payload, Sample):
            image = wandb.Image(str(self._out / payload.path), caption=payload.prompt)
            self._log("samples", payload.step, {payload.label or payload.path: image})

    def close(self) -> None:
        """Leaves what `wandb sync` needs, without links to places of this host and the library's own logs."""
        self._run.finish()
        for path in sorted((self._out / "wandb").rglob("*")):
            if path.is_symlink():
                path.unlink()
            elif path.name in ("logs", "tmp") and path.is_dir():
                shutil.rmtree(path)

    def _start(self, mode: str) -> Any:
        self._out.joinpath("wandb").mkdir(parents=True, exist_ok=True)
        try:
            return wandb.init(
                project=self._project,
                name=self._spec.name,
                group=self._spec.digest()[:16],
                dir=str(self._out),
                config=self._spec.params.model_dump(mode="json"),
                mode="online" if mode == "online" else "offline",
                settings=wandb.Settings(
                    console="off", silent=True, x_disable_meta=True, x_disable_stats=True, x_save_requirements=False
                ),
            )
        except wandb.errors.Error as error:
            if mode == "offline":
                raise
            self.problem = str(error)
            return self._start("offline")

    def _log(self, group: str, step: int, values: dict[str, Any]) -> None:
        self._run.log({f"{group}/{name}": value for name, value in values.items()}, step=step)
