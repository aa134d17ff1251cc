"""A training loop like that of example scripts: no cache, everything recomputed at each step, one sync per step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image
from torch import Tensor

PIPELINE: Any = StableDiffusionPipeline  # diffusers has no types that mypy can use
SCHEDULER: Any = DDPMScheduler
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class PlainLoop:
    """Trains LoRA pairs on the UNet of `base`, r 8, with AdamW, from the photos of a folder with metadata.jsonl."""

    def __init__(self, base: Path, photos: Path, *, resolution: int, batch_size: int) -> None:
        lines = (photos / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines if line.strip()]
        self.photos = photos
        self.resolution = resolution
        self.batch_size = batch_size
        self.generator = np.random.default_rng(0)
        self.pipeline = PIPELINE.from_pretrained(base, local_files_only=True)
        for part in (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder):
            part.requires_grad_(False)
        self.unet = self.pipeline.unet
        self.unet.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
        self.unet.train()
        self.parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.scheduler = SCHEDULER.from_config(self.pipeline.scheduler.config)
        self.losses: list[float] = []

    def train(self, steps: int) -> None:
        for _ in range(steps):
            picked = self.generator.choice(len(self.rows), self.batch_size, replace=False)
            self.losses.append(self._step([self.rows[index] for index in picked]))

    def _step(self, rows: list[dict[str, str]]) -> float:
        pixels_BCHW = torch.stack([self._pixels(self.photos / row["file_name"]) for row in rows])
        with torch.no_grad():
            posterior = self.pipeline.vae.encode(pixels_BCHW).latent_dist
            latents_BCHW = posterior.sample() * self.pipeline.vae.config.scaling_factor
            states_BLD = self.pipeline.text_encoder(self._ids([row["text"] for row in rows]))[0]
        noise_BCHW = torch.randn_like(latents_BCHW)
        times_B = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(rows),))
        noisy_BCHW = self.scheduler.add_noise(latents_BCHW, noise_BCHW, times_B)
        predicted_BCHW = self.unet(noisy_BCHW, times_B, states_BLD, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted_BCHW, noise_BCHW)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _pixels(self, path: Path) -> Tensor:
        """The shorter side to the resolution by Lanczos, then a random square, in [-1, 1]."""
        image = Image.open(path).convert("RGB")
        scale = self.resolution / min(image.size)
        width, height = (max(self.resolution, round(side * scale)) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (int(self.generator.integers(side - self.resolution + 1)) for side in (width, height))
        square = resized.crop((left, top, left + self.resolution, top + self.resolution))
        return torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)

    def _ids(self, captions: list[str]) -> Tensor:
        tokenizer = self.pipeline.tokenizer
        length = tokenizer.model_max_length
        ids: Tensor = tokenizer(
            captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids
