"""Optimizer steps of a LoRA training by the real loop, on a network of any shape with inputs in memory."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.image_shapes import Shape, base_of, network_make
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.loop import Progress, StepBatch, TrainingPlan, fit
from trainers.core.lora import attach
from trainers.core.optim import Group, optimizer_of, schedule
from trainers.core.reporting import Reporter
from trainers.image.data.batches import MicroBatch
from trainers.image.data.timesteps import times_of
from trainers.image.models.families import family_module
from trainers.image.training.denoising import denoising

NEVER = 10**9


class Steps:
    """A training that runs a number of steps at a time."""

    def __init__(self, shape: Shape, batch_size: int, device: torch.device, *, compile_: bool) -> None:
        self.batch_size = batch_size
        self._shape = shape
        self._device = device
        self._params = ImageLoraParams(
            adaptor_name="bench", lora_r=16, lora_alpha=16, resolution=shape.pixels, mixed_precision="bf16"
        )
        self._base = base_of(shape, network_make(shape, device))
        targets = family_module(shape.family).targets(self._base.network, "attention", False)
        self._parameters = attach(self._base.network, r=16, alpha=16, dropout=0.0, seed=0, targets=targets)
        if shape.checkpointing:
            self._base.network.enable_gradient_checkpointing()
        if compile_:
            self._base.network.compile()
        self._times = times_of(self._base, self._params)
        self._sample = self._inputs()

    def run(self, steps: int) -> None:
        """Returns when the work is queued; the caller synchronises with the device."""
        processes, reporter = Processes(rank=0, world_size=1, device=self._device), Reporter(None)
        with tempfile.TemporaryDirectory() as folder:
            control = Control(Path(folder) / "control", processes, reporter)
            try:
                outcome = fit(
                    self._training_plan(steps), Progress(), processes=processes, control=control, reporter=reporter
                )
            finally:
                control.close()
        assert outcome == "succeeded"

    def _training_plan(self, steps: int) -> TrainingPlan[MicroBatch]:
        params = self._params
        return TrainingPlan(
            total_steps=steps,
            seed=params.seed,
            batch=lambda step: StepBatch([self._batch(step)], count=self.batch_size, units=self.batch_size, epoch=0.0),
            loss=denoising(self._base, self._device, params, torch.bfloat16),
            parameters=self._parameters,
            optimizer=optimizer_of(
                "adamw",
                [Group("network", self._parameters, params.rate)],
                betas=(params.adam_beta1, params.adam_beta2),
                weight_decay=params.adam_weight_decay,
                epsilon=params.adam_epsilon,
            ),
            schedule=schedule("constant", warmup_steps=0, total_steps=steps),
            max_grad_norm=params.max_grad_norm,
            scaler=torch.amp.GradScaler(self._device.type, enabled=False),
            checkpoint_every=NEVER,
            evaluate_every=NEVER,
            unit="images",
            save=lambda _progress: None,
        )

    def _batch(self, step: int) -> MicroBatch:
        side = self._shape.pixels // 8
        times = [self._times.draw(0, step, position, side, side)[0] for position in range(self.batch_size)]
        return MicroBatch(times_B=torch.tensor(times), **self._sample)

    def _inputs(self) -> dict[str, Any]:
        """Samples as in the cache: fp32 latents, embeddings in the compute dtype, on the CPU."""
        count, side = self.batch_size, self._shape.pixels // 8
        latents, noise = torch.randn(2, count, self._shape.latent_channels, side, side)
        sizes = [float(self._shape.pixels)] * 2 + [0.0, 0.0] + [float(self._shape.pixels)] * 2
        return {
            "latents_BCHW": latents,
            "noise_BCHW": noise,
            "text": {name: torch.randn(count, *shape).bfloat16() for name, shape in self._shape.text.items()},
            "sizes_B6": torch.tensor([sizes] * count),
            "weights_B": torch.ones(count),
        }
