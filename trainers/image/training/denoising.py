"""The objective of image diffusion: add noise to latents, let the network predict it, compare."""

# B batch, C channels, H height, W width (of latents), T training timesteps

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formats.models.image_families import PREDICTIONS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.device import to_device
from trainers.core.distributed import Processes
from trainers.core.losses import (
    PredictionType,
    add_noise,
    alphas_cumprod,
    flow_noise,
    flow_target,
    huber,
    min_snr_weight,
    sample_means,
    squared,
    target,
)
from trainers.image.data.batches import MicroBatch
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import image_family
from trainers.image.models.text_encoders import Text, holds_ids


@dataclass(frozen=True)
class Ddpm:
    """Noise by the base's own betas."""

    alphas_cumprod_T: Tensor
    """On the CPU, fp32."""
    prediction_type: PredictionType
    snr_gamma: float | None

    def noisy(self, batch: MicroBatch) -> Tensor:
        return add_noise(batch.latents_BCHW, batch.noise_BCHW, self.alphas_cumprod_T[batch.times_B])

    def target(self, batch: MicroBatch) -> Tensor:
        return target(self.prediction_type, batch.latents_BCHW, batch.noise_BCHW, self.alphas_cumprod_T[batch.times_B])

    def weights(self, batch: MicroBatch) -> Tensor:
        """[B]: the batch's weights times the min-SNR weights."""
        if self.snr_gamma is None:
            return batch.weights_B
        abar_B = self.alphas_cumprod_T[batch.times_B]
        return batch.weights_B * min_snr_weight(self.prediction_type, abar_B, self.snr_gamma)


@dataclass(frozen=True)
class Flow:
    """Flow matching: straight paths from image to noise."""

    def noisy(self, batch: MicroBatch) -> Tensor:
        return flow_noise(batch.latents_BCHW, batch.noise_BCHW, batch.times_B)

    def target(self, batch: MicroBatch) -> Tensor:
        return flow_target(batch.latents_BCHW, batch.noise_BCHW)

    def weights(self, batch: MicroBatch) -> Tensor:
        return batch.weights_B


@dataclass(frozen=True)
class Denoising:
    """Callable as the loop's loss: a micro-batch -> the sum over its samples of the weighted mean error."""

    base: Base
    device: torch.device
    dtype: torch.dtype
    """Compute dtype of the frozen base; the loss is fp32."""
    noising: Ddpm | Flow
    huber_c: float | None
    """None: squared error."""
    guidance: float
    """Input of Flux' guidance embedding."""
    text_settings: TextSettings

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.base.network
        return network

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            predicted_BCHW = image_family(self.base.family).predict(
                self.base,
                to_device(self.noising.noisy(batch), device, self.dtype),
                to_device(batch.times_B, device),
                self._text(batch.text),
                to_device(batch.sizes_B6, device),
                self.guidance,
            )
        target_BCHW = to_device(self.noising.target(batch), device)
        if self.huber_c is None:
            error_BCHW = squared(predicted_BCHW, target_BCHW)
        else:
            error_BCHW = huber(predicted_BCHW, target_BCHW, self.huber_c)
        loss_B = sample_means(error_BCHW, None if batch.mask_B1HW is None else to_device(batch.mask_B1HW, device))
        return (loss_B * to_device(self.noising.weights(batch), device)).sum(), {}

    def _text(self, text: Text) -> Text:
        """Embeddings on the device; token ids pass through the text encoders, which are trained."""
        text = {key: to_device(value, self.device) for key, value in text.items()}
        if holds_ids(text):
            text = image_family(self.base.family).embed(self.base, text, self.text_settings)
        return {key: value.to(self.dtype) if value.is_floating_point() else value for key, value in text.items()}


def denoising(base: Base, device: torch.device, params: ImageLoraParams, dtype: torch.dtype) -> Denoising:
    """The objective of `params` on `base`, with its own betas and prediction type, or flow matching.

    TrainerError BAD_PARAMETERS: epsilon prediction on a base whose last step has no signal left to predict from.
    """
    return Denoising(
        base=base,
        device=device,
        dtype=dtype,
        noising=Flow() if image_family(base.family).is_flow else _ddpm(base, params.snr_gamma),
        huber_c=params.huber_c if params.loss_type == "huber" else None,
        guidance=params.flux_guidance,
        text_settings=TextSettings(params.clip_skip, params.max_sequence_length),
    )


@torch.no_grad()
def validation_loss(objective: Denoising, batches: Sequence[MicroBatch], processes: Processes) -> float:
    """Mean loss of a sample; ranks share the work and all return the same value. Dropout must be off."""
    total = torch.zeros((), device=processes.device)
    for batch in processes.share(batches):
        total += objective(batch)[0]
    return float(processes.sum(total)) / sum(len(batch.times_B) for batch in batches)


def _ddpm(base: Base, snr_gamma: float | None) -> Ddpm:
    try:
        abar_T = alphas_cumprod(base.scheduler_config)
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"scheduler/scheduler_config.json: {error}") from error
    prediction_type = base.scheduler_config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTIONS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type epsilon or v_prediction, got {prediction_type!r}"
        )
    if prediction_type == "epsilon" and abar_T[-1] <= 0:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "prediction_type='epsilon' cannot be trained on this base model, whose noise schedule ends without any "
            "signal (rescale_betas_zero_snr); choose prediction_type='v_prediction'",
        )
    return Ddpm(abar_T, prediction_type, snr_gamma)
