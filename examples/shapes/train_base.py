"""Trains the base: UNet and text encoder together on cached latents. Resumable by rerunning the same command.

    python -m examples.shapes.train_base --work /tmp/shapes --steps 6250

Needs `vae.pt` from examples.shapes.train_vae in the same folder.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.shapes.draw import Scene, split_scenes
from examples.shapes.latents import NUM_PER_SCENE, cached_latents
from examples.shapes.resume import checkpoint_load, checkpoint_save
from examples.shapes.tokenizer import LENGTH, new_tokenizer

# B batch, S scenes in a batch; every scene gives two images, so that the text encoder runs once for both
SCENES_PER_BATCH = 16
IMAGES_PER_SCENE = 2
PEAK_RATE = 1e-3
WARMUP_STEPS = 200
COOLDOWN_STEPS = 1000
EMA_DECAY = 0.998
NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.025
"""Scaled linear, as Stable Diffusion's, but up to more noise: its 0.012 leaves so much of a flat ground in the last
timestep that the ground is guessed from the noise (greys) instead of read from the caption."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    mean, std, scaling_factor = cached_latents(args.work)
    torch.manual_seed(0)
    tokenizer, modules = new_tokenizer(), new_modules()
    ema = {name: value.clone() for name, value in modules.state_dict().items()}
    optimizer = torch.optim.AdamW(modules.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    checkpoint, first = args.work / "base.pt", 0
    if state := checkpoint_load(checkpoint):
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
    started, losses = time.monotonic(), []
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_factor(step, args.steps)
        losses.append(train_step(modules, tokenizer, optimizer, mean, std, scaling_factor, step))
        ema_update(ema, modules, step)
        if (step + 1) % 50 == 0:
            rate = (time.monotonic() - started) / (step + 1 - first)
            print(f"step {step + 1} loss {np.mean(losses[-50:]):.4f} {rate:.3f} s/step", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step + 1}
            checkpoint_save(checkpoint, state)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6250)
    return parser.parse_args()


def new_modules() -> torch.nn.ModuleDict:
    """UNet (4.1 M parameters) and text encoder (0.4 M)."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        cross_attention_dim=128,
        attention_head_dim=4,
    )
    return torch.nn.ModuleDict({"unet": unet, "text_encoder": CLIPTextModel(text_config())})


def text_config() -> CLIPTextConfig:
    tokenizer = new_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_step(
    modules: torch.nn.ModuleDict,
    tokenizer: CLIPTokenizer,
    optimizer: torch.optim.Optimizer,
    mean: torch.Tensor,
    std: torch.Tensor,
    scaling_factor: float,
    step: int,
) -> float:
    """One update; everything random comes from the step's number."""
    rng, generator = np.random.default_rng([2, step]), torch.Generator().manual_seed(step)
    scenes, _ = split_scenes()
    chosen = rng.integers(0, len(scenes), SCENES_PER_BATCH)
    rows = chosen.repeat(IMAGES_PER_SCENE) * NUM_PER_SCENE
    rows = torch.from_numpy(rows + rng.integers(0, NUM_PER_SCENE, len(rows)))
    x_BCHW = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=generator)
    ids_SL = token_ids(tokenizer, [random_caption(scenes[i], rng) for i in chosen])
    loss = velocity_loss(modules, x_BCHW * scaling_factor, ids_SL, generator)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def rate_factor(step: int, num_steps: int) -> float:
    """Warm-up, a flat stretch, and a linear fall over the last 1000 steps; before the fall num_steps has no effect."""
    return min((step + 1) / WARMUP_STEPS, 1.0, (num_steps - step) / COOLDOWN_STEPS)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """10% empty; else a fifth without the background, and one in eight with a nonsense word in front."""
    if rng.random() < 0.1:
        return ""
    caption = scene.short_caption if rng.random() < 0.2 else scene.caption
    if rng.random() < 0.125:
        letters = rng.integers(ord("a"), ord("z") + 1, int(rng.integers(3, 8)))
        return f"{''.join(chr(code) for code in letters)}, {caption}"
    return caption


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(S, 77) token ids."""
    ids: torch.Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def velocity_loss(
    modules: torch.nn.ModuleDict, x_BCHW: torch.Tensor, ids_SL: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Mean square error of the predicted velocity, v = a noise - s x0.

    Not the noise: at the first steps of sampling its error says next to nothing about place, ground and colour.
    """
    t_B = timesteps(len(x_BCHW), generator)
    noise = torch.randn(x_BCHW.shape, generator=generator)
    abar = alphas_cumprod()[t_B].view(-1, 1, 1, 1)
    a, s = abar.sqrt(), (1 - abar).sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        text = modules["text_encoder"](ids_SL).last_hidden_state.repeat_interleave(IMAGES_PER_SCENE, dim=0)
        predicted = modules["unet"](a * x_BCHW + s * noise, t_B, text).sample
    return torch.nn.functional.mse_loss(predicted.float(), a * noise - s * x_BCHW)


def timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) half uniform, half of the noisiest quarter, where the caption alone says what is where."""
    t_B = torch.randint(0, NUM_TIMESTEPS, (count,), generator=generator)
    t_B[::2] = torch.randint(NUM_TIMESTEPS * 3 // 4, NUM_TIMESTEPS, (len(t_B[::2]),), generator=generator)
    return t_B


def alphas_cumprod() -> torch.Tensor:
    """(1000,) of the scaled_linear schedule."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


@torch.no_grad()
def ema_update(ema: dict[str, torch.Tensor], modules: torch.nn.ModuleDict, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for name, value in modules.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)


if __name__ == "__main__":
    main()
