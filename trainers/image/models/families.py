"""The families of image models: what each does in its own way, and how the folder of a base model is opened.

The family is read from the folder's model_index.json, never from the user. Parts are opened strictly: safetensors only,
nothing missing, nothing downloaded, no remote code.
"""

# B batch, L tokens, D text width, P pooled width, C channels, H height, W width

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from formats.models.configs import PICKLE_ENDINGS, json_file_read
from formats.models.image_configs import index_clean, part_config_clean, pipeline_keys_ignored
from formats.models.image_families import FAMILIES
from formats.models.image_families import family_of as pipeline_family
from foundation.atomic import bytes_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.model_files import bad_files, ignored_log, special_tokens_check, weights_view
from trainers.image.models.base import Base, TargetKind, TextSettings
from trainers.image.models.text_encoders import Embed, Text, Tokenize, encode_one_by_one

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
MODULES = {
    "sd1": "stable_diffusion:SD1",
    "sd2": "stable_diffusion:SD2",
    "sdxl": "sdxl:SDXL",
    "sd3": "sd3:SD3",
    "flux": "flux:FLUX",
}
"""By family: the module of this package, and the name of its `Family`."""
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Family:
    """What one family does in its own way."""

    name: str
    pixel_multiple: int
    """The sides of images must be divisible by this."""
    load: Callable[[Path, torch.dtype, torch.device | str], Base]
    caption_tokenizer: Callable[[Path], Any]
    """The last tokenizer of a folder, whose length limits captions."""
    tokenize: Tokenize
    """Token ids for each text, without a batch axis: "ids/0" for the first encoder, and so on."""
    embed: Embed
    """A batch of token ids -> "prompt" (B, L, D) and, in some families, "pooled" (B, P); differentiable."""
    predict: Callable[[Base, Tensor, Tensor, Text, Tensor | None, float], Tensor]
    """(base, noisy_BCHW, times_B, text, sizes_B6, guidance) -> the network's prediction, shaped as the noisy latents.

    times_B: timesteps (DDPM), or s in (0, 1] (flow). sizes_B6: original height and width, top and left of the crop,
    target height and width; only SDXL uses it. guidance: only for Flux with a guidance embedding.
    """
    targets: Callable[[nn.Module, TargetKind, bool], list[str]]
    """(network, kind, with convolutions) -> full names of the modules that get LoRA pairs."""
    text_targets: Callable[[nn.Module], list[str]]
    """The same for a text encoder; none for T5, which is not trained."""
    t5_tokens: int = 0
    """Tokens of a caption that T5 reads by default; 0: the family has no T5."""

    @property
    def is_flow(self) -> bool:
        """Trained by flow matching, at times in (0, 1]; else by DDPM, at integer timesteps."""
        return FAMILIES[self.name].is_flow

    def encode_text(self, base: Base, texts: Sequence[str], settings: TextSettings) -> list[Text]:
        """Embeddings for each text, without a batch axis and without gradients, one text at a time."""
        return encode_one_by_one(self.tokenize, self.embed, base, texts, settings)


@cache
def image_family(name: str) -> Family:
    """Imports one family only: each needs other classes of diffusers and transformers, which take seconds to import."""
    module, attribute = MODULES[name].split(":")
    family: Family = getattr(importlib.import_module(f"trainers.image.models.{module}"), attribute)
    return family


def load_base(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Base:
    """The base model of `folder` (diffusers layout, safetensors) in `dtype`, frozen, on `device`.

    Raises TrainerError(BAD_BASE_MODEL) that names the pipeline of the folder and the supported ones.
    """
    family = family_of(folder)
    with bad_files():
        ignored_log(pipeline_keys_ignored(folder))
    base = family.load(folder, dtype, device)
    for index, (tokenizer, encoder) in enumerate(zip(base.tokenizers, base.text_encoders, strict=True), start=1):
        special_tokens_check(tokenizer, int(encoder.config.vocab_size), f"tokenizer {index}")
    return base


def family_of(folder: Path) -> Family:
    """The family of the base model in `folder`: by its pipeline class, 1.x and 2.x by the width of the text encoder."""
    pipeline = model_index(folder).get("_class_name")
    name = pipeline_family(pipeline)
    if name is None:
        supported = ", ".join(f"{family.title} ({family.pipeline})" for family in FAMILIES.values())
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected {supported}, found {pipeline or 'no _class_name'} in {folder.name}/model_index.json",
        )
    if name == "sd1" and (folder / "text_encoder").is_dir():
        name = pipeline_family(pipeline, part_config(folder, "text_encoder").get("hidden_size"))
    return image_family(str(name))


def model_index(folder: Path) -> dict[str, Any]:
    """The keys of model_index.json that we read. Raises TrainerError(BAD_BASE_MODEL)."""
    path = folder / "model_index.json"
    if not path.is_file():
        single = sorted(f.name for f in folder.glob("*.safetensors")) if folder.is_dir() else []
        present = f"found the single file {single[0]}" if single else "found none"
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected a model_index.json (diffusers layout) in the base model folder, {present}",
        )
    with bad_files():
        return index_clean(json_file_read(path, path.name)).values


def part_load(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """`cls` (a diffusers or transformers model) from `folder/part`, in eval mode with its weights frozen."""
    variant = _variant(folder, part)
    with bad_files():
        raw = json_file_read(folder / part / "config.json", f"{part}/config.json")
        config = part_config_clean(raw, cls.__name__, f"{part}/config.json").values
    with weights_view(folder, part, config) as view:
        try:
            model, info = cls.from_pretrained(
                view,
                torch_dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{part} cannot be read: {_first_line(error)}") from error
    _path_remove(model)
    if invalid := sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"])):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"{part} lacks {len(invalid)} weights or has them in another shape, the first is {invalid[0]}",
        )
    return model.eval().requires_grad_(False)


def part_config(folder: Path, part: str) -> dict[str, Any]:
    """config.json of a part, for callers that compare single numbers; `part_load` checks all of it."""
    name = f"{part}/config.json"
    with bad_files():
        return json_file_read(folder / part / "config.json", name)


def parts_check(folder: Path, parts: tuple[str, ...]) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) that names every missing part."""
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"the base model lacks {', '.join(missing)}; it needs {', '.join(parts)}"
        )


def equal(one: tuple[str, str, Any], other: tuple[str, str, Any]) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) if two parts disagree: each is (part, name in its config, value)."""
    if one[2] != other[2]:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"{one[0]} has {one[1]} {one[2]} but {other[0]} has {other[1]} {other[2]}; they must be equal",
        )


def _variant(folder: Path, part: str) -> str | None:
    """None for plain weights, "fp16" if there are only half-precision files."""
    names = [path.name for path in sorted((folder / part).glob("*.safetensors"))]
    if not names:
        pickles = sorted(path.name for path in (folder / part).iterdir() if path.suffix in PICKLE_ENDINGS)
        present = f"found {pickles[0]}, which is pickle and never loaded" if pickles else "found none"
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"expected safetensors weights in {part}/, {present}")
    return "fp16" if all(".fp16." in name for name in names) else None


def _path_remove(model: Any) -> None:
    """Removes the worker's path of the base from the config, which products copy."""
    if hasattr(model, "register_to_config"):
        model.register_to_config(_name_or_path="")
    else:
        model.config._name_or_path = ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def base_save(base: Base, folder: Path) -> None:
    """Writes every part as safetensors, and the base's own scheduler config; stock diffusers opens the folder."""
    base.pipeline().save_pretrained(folder, safe_serialization=True)
    config = json.dumps(base.scheduler_config, indent=2, sort_keys=True)
    bytes_write(folder / "scheduler" / "scheduler_config.json", config.encode())


def vae_load(folder: Path, dtype: torch.dtype) -> Any:
    """In `dtype`, but in fp32 instead of fp16 if it would overflow (force_upcast in its config)."""
    overflows = part_config(folder, "vae").get("force_upcast", True)
    return part_load(AutoencoderKL, folder, "vae", torch.float32 if dtype == torch.float16 and overflows else dtype)


@torch.no_grad()
def encode_image(base: Base, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the VAE's posterior, fp32 (B, C, H/8, W/8), unscaled; pixels in [-1, 1]."""
    posterior = base.vae.encode(pixels_BCHW.to(base.vae.device, base.vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.logvar.float()


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of the first weight of the unet or transformer; fp32 if unclear, so that nothing is rounded."""
    for path in sorted([*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]):
        try:
            with safe_open(path, framework="pt") as file:
                for key in sorted(file.keys()):
                    return STORED_DTYPES.get(file.get_slice(key).get_dtype(), torch.float32)
        except SafetensorError:
            break
    return torch.float32
