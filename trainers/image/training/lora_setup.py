"""What an `image_lora` job trains: LoRA pairs on a frozen base model, fresh or from an adaptor."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import InputRef
from trainers.core.context import JobContext
from trainers.core.device import network_quantise
from trainers.core.lora import TRAINED, attach, lora_layers, lora_load_state, lora_state
from trainers.core.model_files import base_check, weights_folder
from trainers.core.noise import Purpose, integer
from trainers.core.optim import Ema
from trainers.image.adaptors.file import adaptor_read
from trainers.image.adaptors.pairs import Pair, Pairs, live_pairs, plain_name, roots
from trainers.image.models.base import Base, part_name
from trainers.image.models.families import image_family, load_base
from trainers.optional.libraries import optional_module

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLIP = (CLIPTextModel, CLIPTextModelWithProjection)


@dataclass(frozen=True)
class TrainedLora:
    """The pairs in training."""

    modules: dict[str, Any]
    """The modules with pairs, by the part's name in diffusers: unet or transformer, text_encoder, text_encoder_2."""
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
            prefix = f"{part}."
            lora_load_state(module, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the base behaves as if it had no pairs."""
        layers = [layer for module in self.modules.values() for _, layer in lora_layers(module, TRAINED)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Turns off dropout within the block."""
        training = [module.training for module in self.modules.values()]
        for module in self.modules.values():
            module.eval()
        try:
            yield
        finally:
            for module, mode in zip(self.modules.values(), training, strict=True):
                module.train(mode)


@dataclass(frozen=True)
class TrainedModel:
    base: Base
    lora: TrainedLora
    ema: Ema | None

    @contextmanager
    def product_weights(self) -> Iterator[None]:
        """Within the block the model is what the job exports: without dropout, and with the EMA weights if it has them.

        Samples and validation use the same weights.
        """
        with ExitStack() as stack:
            stack.enter_context(self.lora.eval_mode())
            if self.ema:
                stack.enter_context(self.ema.applied())
            yield


def base_load(job: JobContext[ImageLoraParams]) -> Base:
    """The frozen base on the job's device, with the parameters' dtype, quantization and attention."""
    params = job.params
    base = _load_quantized(job)
    family_check(base, params)
    channels_last_set(base.network, job.processes.device)
    if params.attention == "xformers":
        optional_module("xformers", "xformers")
        base.network.enable_xformers_memory_efficient_attention()
    if params.gradient_checkpointing:
        base.network.enable_gradient_checkpointing()
    return base


def channels_last_set(network: nn.Module, device: torch.device) -> None:
    """Lays out convolutions of a UNet as an accelerator's kernels read them; a CPU keeps its layout and its bits.

    By hand: `to` would also act on quantized layers.
    """
    if device.type == "cpu" or not isinstance(network, UNet2DConditionModel):
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _load_quantized(job: JobContext[ImageLoraParams]) -> Base:
    params, device = job.params, job.processes.device
    dtype = DTYPES[params.mixed_precision]
    if params.base_quantization == "none":
        return load_base(job.model, dtype, device)
    base = load_base(job.model, dtype, "cpu")
    network_quantise(base.network, params.base_quantization, device)
    for module in (base.vae, *base.text_encoders):
        module.to(device)
    return base


def family_check(base: Base, params: ImageLoraParams) -> None:
    """Refuses parameters that would have no effect on the base model's family.

    Raises TrainerError(BAD_PARAMETERS) that names the parameter, its value and the family. The API runs the same check
    at submit if it knows the family; a check that needs the network's config runs only here.
    """
    problem = params.family_problem(base.family)
    default = type(params).model_fields["flux_guidance"].default
    if base.family == "flux" and not base.network.config.guidance_embeds and params.flux_guidance != default:
        problem = problem or (
            f"flux_guidance={params.flux_guidance!r} does nothing with this Flux model, which has no guidance "
            "embedding; leave flux_guidance at its default"
        )
    if problem:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)


def with_prediction_type(base: Base, params: ImageLoraParams) -> Base:
    """The same parts with the prediction type that the parameters train for, also for samples of the training."""
    if not params.prediction_type:
        return base
    return replace(base, scheduler_config=base.scheduler_config | {"prediction_type": params.prediction_type})


def encoders_unload(base: Base, *, vae: bool, text: bool) -> None:
    """Frees the memory of encoders that are no longer needed."""
    modules: list[Any] = [base.vae] if vae else []
    for module in [*modules, *(base.text_encoders if text else ())]:
        module.to("meta")


def pairs_attach(base: Base, params: ImageLoraParams) -> TrainedLora:
    """Fresh pairs on every layer that `params` train."""
    family, network = image_family(base.family), base.network
    targets = family.targets(network, params.lora_targets, params.conv_rank > 0)
    modules = {base.network_part: network}
    network_parameters = _attach(network, targets, params, conv_rank=params.conv_rank)
    text_parameters: list[nn.Parameter] = []
    if params.train_text_encoder:
        for index, encoder in enumerate(base.text_encoders):
            if isinstance(encoder, CLIP):
                modules[part_name("text_encoder", index)] = encoder
                text_parameters += _attach(encoder, family.text_targets(encoder), params)
        if not text_parameters:
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                "train_text_encoder=true, but this base model has no CLIP text encoder; set train_text_encoder=false",
            )
    return TrainedLora(modules, network_parameters, text_parameters)


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


def pairs_init_from_adaptor(job: JobContext[ImageLoraParams], base: Base) -> None:
    """Copies the pairs of the job's input adaptor, if it has one, into those in training; the optimizer starts fresh.

    TrainerError BAD_PARAMETERS names the parameter by which they differ; BAD_ADAPTOR: it is of another base model.
    """
    inputs = job.spec.inputs
    if not inputs.adaptors:
        return
    (ref,) = inputs.adaptors
    assert inputs.model is not None
    adaptor = adaptor_read(base, weights_folder(job.adaptor(0)))
    base_check(ref, adaptor.metadata, inputs.model)
    _prediction_check(ref, adaptor.metadata, base)
    live = live_pairs(base, TRAINED)
    _pairs_check(ref, adaptor.pairs, live, job.params)
    if differences := _differences(adaptor.pairs, live):
        message = f"adaptor {ref.name} continues with settings other than it was trained with: {differences}"
        job.reporter.emit(Warning_(message=message))
    _copy(adaptor.pairs, base)


def _prediction_check(ref: InputRef, metadata: dict[str, str], base: Base) -> None:
    trained, current = metadata.get("prediction_type"), base.scheduler_config.get("prediction_type", "epsilon")
    if trained and trained != current:
        raise _mismatch(
            f"adaptor {ref.name} was trained with prediction_type={trained}, got {current}; set it to {trained}"
        )


def _pairs_check(ref: InputRef, pairs: Pairs, live: Pairs, params: ImageLoraParams) -> None:
    """Every pair of the adaptor needs a pair in training, of at least its rank; there may be more in training."""
    source, target = _by_layer(pairs), _by_layer(live)
    if untrained := sorted(source.keys() - target.keys()):
        raise _mismatch(
            f"adaptor {ref.name} has a pair on {untrained[0]}, and {len(untrained)} of its {len(source)} layers are "
            "not trained; widen lora_targets, conv_rank or train_text_encoder. Layers that none of them covers cannot "
            "be trained further"
        )
    for layer, pair in source.items():
        expected = target[layer]
        if pair.rank > expected.rank:
            name = "conv_rank" if pair.down.ndim == 4 and params.conv_rank else "lora_r"
            raise _mismatch(
                f"adaptor {ref.name} has rank {pair.rank} on {layer}, but {name}={expected.rank}; "
                f"set {name}={pair.rank}, or lower its rank with extract_adaptor"
            )
        if (pair.magnitude_O is None) != (expected.magnitude_O is None):
            use_dora = pair.magnitude_O is not None
            raise _mismatch(
                f"adaptor {ref.name} was trained with use_dora={use_dora}; set use_dora={str(use_dora).lower()}"
            )


def _differences(pairs: Pairs, live: Pairs) -> str:
    """Settings that differ from the adaptor's training without changing its images; "" if there are none."""
    source, target = _by_layer(pairs), _by_layer(live)
    fresh = len(target.keys() - source.keys())
    wider = sum(pair.rank < target[layer].rank for layer, pair in source.items())
    rescaled = sum(abs(pair.scaling / target[layer].scaling - 1) > 1e-6 for layer, pair in source.items())
    counts = [
        (fresh, "layers begin without an update"),
        (wider, "get a higher rank"),
        (rescaled, "another lora_alpha / lora_r"),
    ]
    return ", ".join(f"{count} {what}" for count, what in counts if count)


@torch.no_grad()
def _copy(pairs: Pairs, base: Base) -> None:
    for part, root in roots(base).items():
        for name, layer in lora_layers(root, TRAINED):
            if pair := pairs.get(part, {}).get(plain_name(name)):
                _fill(layer, pair)


def _fill(layer: Any, pair: Pair) -> None:
    """The first ranks get `pair` at the layer's own scaling; the others keep their initial values, with B zero."""
    down, up = layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight
    down[: pair.rank].copy_(pair.down)
    up[:, : pair.rank].copy_(pair.up * (pair.scaling / layer.scaling[TRAINED]))
    if pair.magnitude_O is not None:
        lengths = layer.lora_magnitude_vector[TRAINED].weight
        lengths.copy_(pair.magnitude_O.reshape(lengths.shape))


def _by_layer(pairs: Pairs) -> dict[str, Pair]:
    return {f"{part}.{layer}": pair for part, by_layer in pairs.items() for layer, pair in by_layer.items()}


def _mismatch(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_PARAMETERS, message)
