"""Puts a saved adaptor on a live network, or refuses it."""

from pathlib import Path

from peft import LoraConfig, set_peft_model_state_dict
from torch import nn

from trainers.adaptor_file import AdaptorFile, adaptor_read, targets_check
from trainers.lora import inject, lora_layers


def adaptor_load(unet: nn.Module, folder: Path, *, name: str, scale: float = 1.0) -> dict[str, str]:
    """Adds the adaptor of `folder` to `unet` under `name`, active beside those already there; its file's metadata.

    Raises TrainerError(BAD_ADAPTOR) that names the key, shapes or tensor that do not fit.
    """
    file = adaptor_read(folder)
    targets_check(unet, file)
    inject(unet, _config_of(file), name, file.tensors)
    set_peft_model_state_dict(unet, file.tensors, adapter_name=name)
    unet.set_adapter(list(unet.peft_config))  # type: ignore[operator, arg-type]
    for _, layer in lora_layers(unet, name):
        layer.set_scale(name, scale)
    unet.requires_grad_(False)
    return file.metadata


def _config_of(file: AdaptorFile) -> LoraConfig:
    ranks = {module: file.tensors[f"{module}.lora_A.weight"].shape[0] for module in file.modules}
    return LoraConfig(
        r=next(iter(ranks.values())),
        lora_alpha=1,
        target_modules=list(file.modules),
        rank_pattern={f"^{module}": rank for module, rank in ranks.items()},
        alpha_pattern={f"^{module}": file.alpha(module, rank) for module, rank in ranks.items()},
        use_rslora=file.use_rslora,
    )
