"""The pairs that a job of `image_lora` trains: on the network and, where asked, on its CLIP text encoders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.core.context import JobContext
from trainers.core.lora import TRAINED, attach, lora_layers, lora_load_state, lora_state
from trainers.core.noise import Purpose, integer
from trainers.core.quantization import network_quantise
from trainers.image.adaptors.load import adaptor_read
from trainers.image.adaptors.pairs import Pair, Pairs, live_pairs, plain_name, roots
from trainers.image.models.base import Base, part_name
from trainers.image.models.families import family_module, load_base
from trainers.optional.module import optional_module

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_on(device: torch.device) -> str:
    """What `mixed_precision` auto means on a device."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def base_load(job: JobContext[ImageLoraParams]) -> Base:
    """The frozen base on the job's device."""
    params = job.params
    base = _loaded(job)
    family_check(base, params)
    if params.attention == "xformers":
        optional_module("trainers.optional.xformers", "xformers").attention_use(base.network)
    if params.gradient_checkpointing:
        base.network.enable_gradient_checkpointing()
    return base


def prediction_overridden(base: Base, params: ImageLoraParams) -> Base:
    """The same parts with the prediction type that is trained for; it holds for samples of the training too."""
    if not params.prediction_type:
        return base
    return replace(base, scheduler_config=base.scheduler_config | {"prediction_type": params.prediction_type})


def encoders_free(base: Base, *, vae: bool, text: bool) -> None:
    """Gives back the memory of what only the encoding needed."""
    modules: list[Any] = [base.vae] if vae else []
    for module in [*modules, *(base.text_encoders if text else ())]:
        module.to("meta")


def _loaded(job: JobContext[ImageLoraParams]) -> Base:
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
    """Raises TrainerError(BAD_PARAMETERS) that names the parameter, its value and the family.

    The API asks the same at submit, where it knows the family; what only the network's config says is asked here.
    """
    problem = params.family_problem(base.family)
    default = type(params).model_fields["flux_guidance"].default
    if base.family == "flux" and not base.network.config.guidance_embeds and params.flux_guidance != default:
        said = f"flux_guidance={params.flux_guidance!r} does nothing with this Flux model"
        problem = problem or f"{said}, which has no guidance embedding; leave flux_guidance at its default"
    if problem:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)


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


def start_from_adaptor(job: JobContext[ImageLoraParams], base: Base) -> None:
    """Copies the pairs of the job's adaptor, if it has one, into those in training on `base`.

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
    _pairs_agree(ref, adaptor.pairs, live, job.params)
    if changed := _changed(adaptor.pairs, live):
        job.reporter.emit(Warning_(message=f"adaptor {ref.name} goes on otherwise than it was trained: {changed}"))
    _copy(adaptor.pairs, base)


def _prediction_check(ref: InputRef, metadata: dict[str, str], base: Base) -> None:
    trained, now = metadata.get("prediction_type"), base.scheduler_config.get("prediction_type", "epsilon")
    if trained and trained != now:
        raise _differs(f"adaptor {ref.name} was trained with prediction_type={trained}, got {now}; set it to {trained}")


def _pairs_agree(ref: InputRef, given: Pairs, live: Pairs, params: ImageLoraParams) -> None:
    """Every pair of the adaptor has a place among those in training, which may be more, and of higher rank."""
    places, wanted = _flat(given), _flat(live)
    if strange := sorted(places.keys() - wanted.keys()):
        raise _differs(
            f"adaptor {ref.name} has a pair on {strange[0]}, and {len(strange)} of its {len(places)} layers are not "
            "trained; widen lora_targets, conv_rank or train_text_encoder. What none of them reaches cannot go on"
        )
    for place, pair in places.items():
        expected = wanted[place]
        if pair.rank > expected.rank:
            name = "conv_rank" if pair.down.ndim == 4 and params.conv_rank else "lora_r"
            raise _differs(
                f"adaptor {ref.name} has rank {pair.rank} on {place}, but {name}={expected.rank}; "
                f"set {name}={pair.rank}, or cut it with extract_adaptor"
            )
        if (pair.magnitude_O is None) != (expected.magnitude_O is None):
            was = pair.magnitude_O is not None
            raise _differs(f"adaptor {ref.name} was trained with use_dora={was}; set use_dora={str(was).lower()}")


def _changed(given: Pairs, live: Pairs) -> str:
    """What is not as the adaptor was trained, though its images stay the same; "" where all is."""
    places, wanted = _flat(given), _flat(live)
    fresh = len(wanted.keys() - places.keys())
    wider = sum(pair.rank < wanted[place].rank for place, pair in places.items())
    scaled = sum(abs(pair.scaling / wanted[place].scaling - 1) > 1e-6 for place, pair in places.items())
    found = [
        (fresh, "layers begin without an update"),
        (wider, "get a higher rank"),
        (scaled, "another lora_alpha / lora_r"),
    ]
    return ", ".join(f"{count} {said}" for count, said in found if count)


@torch.no_grad()
def _copy(pairs: Pairs, base: Base) -> None:
    for part, root in roots(base).items():
        for name, layer in lora_layers(root, TRAINED):
            if pair := pairs.get(part, {}).get(plain_name(name)):
                _fill(layer, pair)


def _fill(layer: Any, pair: Pair) -> None:
    """The first ranks do what `pair` did, at the layer's own scaling; the others are as they were made, with B zero."""
    down, up = layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight
    down[: pair.rank].copy_(pair.down)
    up[:, : pair.rank].copy_(pair.up * (pair.scaling / layer.scaling[TRAINED]))
    if pair.magnitude_O is not None:
        lengths = layer.lora_magnitude_vector[TRAINED].weight
        lengths.copy_(pair.magnitude_O.reshape(lengths.shape))


def _flat(pairs: Pairs) -> dict[str, Pair]:
    return {f"{part}.{layer}": pair for part, by_layer in pairs.items() for layer, pair in by_layer.items()}


def _differs(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_PARAMETERS, message)
