"""The pairs that a job of `image_lora` trains: on the network and, where asked, on its CLIP text encoders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.lora import TRAINED, attach, lora_layers, lora_load_state, lora_state
from trainers.core.noise import Purpose, integer
from trainers.image.models.base import Base, part_name
from trainers.image.models.families import family_module

CLIP = (CLIPTextModel, CLIPTextModelWithProjection)


@dataclass(frozen=True)
class Trained:
    modules: dict[str, Any]
    """What pairs sit on, by the part's name in diffusers: unet or transformer, text_encoder, text_encoder_2."""
    network: list[nn.Parameter]
    text_encoders: list[nn.Parameter]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.network, *self.text_encoders]

    def state(self) -> dict[str, Tensor]:
        """`<part>.<module>.lora_A.weight` and so on, fp32 on the CPU."""
        return {
            f"{part}.{key}": value for part, module in self.modules.items() for key, value in lora_state(module).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        for part, module in self.modules.items():
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            lora_load_state(module, own)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """The base as if there were no pairs."""
        layers = [layer for module in self.modules.values() for _, layer in lora_layers(module, TRAINED)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout meanwhile."""
        training = [module.training for module in self.modules.values()]
        for module in self.modules.values():
            module.eval()
        try:
            yield
        finally:
            for module, mode in zip(self.modules.values(), training, strict=True):
                module.train(mode)


def pairs_attach(base: Base, params: ImageLoraParams) -> Trained:
    """Fresh pairs on everything that `params` want trained."""
    family, network = family_module(base.family), base.network
    targets = family.targets(network, params.lora_targets, params.conv_rank > 0)
    modules = {base.network_part: network}
    on_network = _attach(network, targets, params, conv_rank=params.conv_rank)
    on_text: list[nn.Parameter] = []
    if params.train_text_encoder:
        for index, encoder in enumerate(base.text_encoders):
            if isinstance(encoder, CLIP):
                modules[part_name("text_encoder", index)] = encoder
                on_text += _attach(encoder, family.text_targets(encoder), params)
        if not on_text:
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                "train_text_encoder=true, but this base model has no CLIP text encoder; set train_text_encoder=false",
            )
    return Trained(modules, on_network, on_text)


def _attach(module: nn.Module, targets: list[str], params: ImageLoraParams, conv_rank: int = 0) -> list[nn.Parameter]:
    return attach(
        module,
        r=params.lora_r,
        alpha=params.lora_alpha,
        dropout=params.lora_dropout,
        seed=integer(2**63 - 1, params.seed, Purpose.LORA_INIT),
        targets=targets,
        conv_rank=conv_rank,
        use_dora=params.use_dora,
    )
