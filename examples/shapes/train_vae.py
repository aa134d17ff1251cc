"""Trains the autoencoder: 64 x 64 images to 4 x 16 x 16 latents. Resumable by rerunning the same command.

python -m examples.shapes.train_vae --work /tmp/shapes --steps 2750
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from examples.shapes.draw import SIDE, draw_scene, split_scenes
from examples.shapes.resume import checkpoint_load, checkpoint_save
from examples.shapes.wide_mix import draw_outlined, draw_random

BATCH = 16
KL_WEIGHT = 1e-4
PEAK_RATE = 1.5e-3
WARMUP_STEPS = 100


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint = args.work / "vae.pt"
    first = 0
    if state := checkpoint_load(checkpoint):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    started = time.monotonic()
    for step in range(first, args.steps):
        loss, error = train_step(vae, optimizer, step, args.steps)
        if (step + 1) % 50 == 0:
            rate = (time.monotonic() - started) / (step + 1 - first)
            print(f"step {step + 1} loss {loss:.5f} mean square error {error:.5f} {rate:.3f} s/step", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            checkpoint_save(
                checkpoint, {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2750)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def new_vae() -> AutoencoderKL:
    """0.7 M parameters; starts with little noise on the latents. The scaling factor is measured after training."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0
    return vae


def train_step(vae: AutoencoderKL, optimizer: torch.optim.Optimizer, step: int, num_steps: int) -> tuple[float, float]:
    """One update; the loss and the mean square error on the -1..1 scale."""
    for group in optimizer.param_groups:
        group["lr"] = PEAK_RATE * rate_factor(step, num_steps, WARMUP_STEPS)
    x_BCHW = image_batch(step)
    torch.manual_seed(step)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x_BCHW).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    error = functional.mse_loss(decoded.float(), x_BCHW)
    kl = posterior.kl().float().mean() / (posterior.mean[0].numel())
    loss = error + functional.l1_loss(decoded.float(), x_BCHW) + KL_WEIGHT * kl
    loss.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), error.item()


def rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine down to 2%."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def image_batch(step: int) -> torch.Tensor:
    """(16, 3, 64, 64) in -1..1: scenes of the training part, random drawings, and from step 2250 on outlined ones."""
    num_random, num_outlined = mix(step)
    rng = np.random.default_rng([1, step])
    scenes, _ = split_scenes()
    images = [draw_scene(scenes[i], rng) for i in rng.integers(0, len(scenes), BATCH - num_random - num_outlined)]
    images += [draw_random(rng) for _ in range(num_random)]
    images += [draw_outlined(rng) for _ in range(num_outlined)]
    return to_tensor(np.stack(images))


def mix(step: int) -> tuple[int, int]:
    """How many of a batch are random drawings, and how many outlined ones: scenes are learnt first."""
    if step < 1000:
        return 4, 0
    return (8, 0) if step < 2250 else (4, 6)


def to_tensor(images_BHWC: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


if __name__ == "__main__":
    main()
