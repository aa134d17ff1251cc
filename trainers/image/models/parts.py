"""The folder of a base model: opens its parts strictly and checks them, and writes a folder of its own.

Safetensors only, nothing missing, nothing downloaded, no remote code.
"""

# B batch, C channels, H height, W width

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import logging as transformers_logging

from formats.base_model import json_file_read
from formats.image_configs import index_clean, part_config_clean
from formats.safetensors_header import PICKLE_ENDINGS
from formats.scheduler_configs import FLOW, scheduler_config_clean
from foundation.atomic import bytes_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.folder_views import bad_files, weights_view
from trainers.image.models.base import Base
from trainers.image.models.schedulers import SCHEDULERS

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
PREDICTIONS = ("epsilon", "v_prediction")
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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


def scheduler_config(folder: Path) -> dict[str, Any]:
    """The keys of scheduler_config.json that we read."""
    name = "scheduler/scheduler_config.json"
    with bad_files():
        return scheduler_config_clean(json_file_read(folder / name, name, allow_infinity=True), name).values


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


def diffusion_scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler config of a base that predicts noise or velocity."""
    config = scheduler_config(folder)
    name, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    supported = sorted(set(SCHEDULERS) - {FLOW})
    if name not in supported:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"expected a scheduler of {', '.join(supported)}, found {name}")
    if prediction not in PREDICTIONS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type {' or '.join(PREDICTIONS)}, found {prediction}"
        )
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in SCHEDULERS[name]().config:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the scheduler config says rescale_betas_zero_snr, which {name} would ignore; use DDIMScheduler",
        )
    return config


def flow_scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler config of a base that was trained by flow matching."""
    config = scheduler_config(folder)
    if config.get("_class_name") != FLOW:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected the scheduler {FLOW}, found {config.get('_class_name')}"
        )
    return config


def save(base: Base, folder: Path) -> None:
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
