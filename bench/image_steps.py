"""Optimizer steps of a LoRA training by the real loop, on a network of any shape with inputs from a real cache."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.configuration_utils import FrozenDict

from bench.image_inputs import IMAGES, random_examples
from bench.image_shapes import Shape, base_of, network_make
from bench.loop_steps import NEVER, loop_run
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.loop import TrainingPlan
from trainers.core.lora import attach
from trainers.core.optim import Group, optimizer_of, schedule
from trainers.image.data.batches import MicroBatch, Plan, step_batch
from trainers.image.data.dataset import draw_settings_of
from trainers.image.models.families import image_family
from trainers.image.training.compiling import blocks_compile
from trainers.image.training.denoising import denoising
from trainers.image.training.lora_setup import channels_last_set


class Steps:
    """A training that runs a number of steps at a time."""

    def __init__(self, shape: Shape, batch_size: int, device: torch.device, cache: Path, *, compile_: bool) -> None:
        self.batch_size = batch_size
        self._device = device
        self._params = ImageLoraParams(
            adaptor_name="bench", lora_r=16, lora_alpha=16, resolution=shape.pixels, mixed_precision="bf16"
        )
        vae = SimpleNamespace(config=FrozenDict(scaling_factor=0.18215))
        self._base = replace(base_of(shape, network_make(shape, device)), vae=vae)
        channels_last_set(self._base.network, device)
        targets = image_family(shape.family).targets(self._base.network, "attention", False)
        self._parameters = attach(self._base.network, r=16, alpha=16, dropout=0.0, seed=0, targets=targets)
        if shape.checkpointing:
            self._base.network.enable_gradient_checkpointing()
        if compile_:
            backend = "inductor" if device.type == "cuda" else "eager"
            blocks_compile(self._base.network, dynamic=False, backend=backend)
        self._draws = draw_settings_of(self._base, self._params)
        self._examples = random_examples(shape, cache)

    def run(self, steps: int) -> None:
        loop_run(self._training_plan(steps), self._device)

    def _training_plan(self, steps: int) -> TrainingPlan[MicroBatch]:
        params = self._params
        plan = Plan(IMAGES, self.batch_size, 1, 1, params.seed)
        return TrainingPlan(
            total_steps=steps,
            seed=params.seed,
            batch=lambda step: step_batch(self._examples, range(IMAGES), self._draws, plan, step, 0),
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
