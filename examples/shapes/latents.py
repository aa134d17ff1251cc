"""The base's training images as latents, encoded once by the trained autoencoder and kept in the work folder."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from examples.shapes.draw import draw_scene, split_scenes
from examples.shapes.resume import checkpoint_load, checkpoint_save
from examples.shapes.train_vae import new_vae, to_tensor

NUM_PER_SCENE = 40


def cached_latents(work: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and standard deviation, both (376 * 40, 4, 16, 16) in scene order, and the scaling factor."""
    path = work / "latents.pt"
    if not path.exists():
        checkpoint_save(path, encode_scenes(trained_vae(work)))
    state = checkpoint_load(path)
    assert state is not None
    return state["mean"].float(), state["std"].float(), state["scaling_factor"]


def trained_vae(work: Path) -> AutoencoderKL:
    vae = new_vae()
    state = checkpoint_load(work / "vae.pt")
    if state is None:
        raise ValueError(f"no vae.pt in {work}: run examples.shapes.train_vae first")
    vae.load_state_dict(state["vae"])
    return vae.eval()


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL) -> dict[str, torch.Tensor | float]:
    """40 images of every training scene; the scaling factor is 1 / standard deviation of all sampled latents."""
    scenes, _ = split_scenes()
    moments = []
    for i, scene in enumerate(scenes):
        rng = np.random.default_rng([3, i])
        images = np.stack([draw_scene(scene, rng) for _ in range(NUM_PER_SCENE)])
        moments.append(vae.encode(to_tensor(images)).latent_dist.parameters)
    mean, log_variance = torch.cat(moments).chunk(2, dim=1)
    std = (0.5 * log_variance.clamp(-30, 20)).exp()
    spread = (mean.var() + std.square().mean()).sqrt()
    return {"mean": mean.half(), "std": std.half(), "scaling_factor": 1 / spread.item()}
