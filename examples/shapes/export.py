"""Writes the trained base as a Stable Diffusion pipeline in fp16 safetensors.

python -m examples.shapes.export --work /tmp/shapes --to examples/shapes/base
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from examples.shapes.latents import cached_latents, trained_vae
from examples.shapes.resume import checkpoint_load
from examples.shapes.tokenizer import new_tokenizer
from examples.shapes.train_base import BETA_END, BETA_START, NUM_TIMESTEPS, new_modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    pipeline, step = trained_pipeline(args.work)
    pipeline.to(torch.float16).save_pretrained(args.to, safe_serialization=True)
    size_bytes = sum(path.stat().st_size for path in args.to.rglob("*") if path.is_file())
    print(f"step {step}: {size_bytes / 1e6:.2f} MB in {args.to}")


def trained_pipeline(work: Path) -> tuple[StableDiffusionPipeline, int]:
    """The pipeline with averaged weights, and the number of steps behind it."""
    state = checkpoint_load(work / "base.pt")
    if state is None:
        raise ValueError(f"no base.pt in {work}: run examples.shapes.train_base first")
    modules = new_modules()
    modules.load_state_dict(state["ema"])
    vae = trained_vae(work)
    _, _, scaling_factor = cached_latents(work)
    vae.register_to_config(scaling_factor=scaling_factor)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=modules["text_encoder"].eval(),
        tokenizer=new_tokenizer(),
        unet=modules["unet"].eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, state["step"]


def new_scheduler() -> DDIMScheduler:
    """As Stable Diffusion 1.5 but for the last beta and the prediction type."""
    return DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


if __name__ == "__main__":
    main()
