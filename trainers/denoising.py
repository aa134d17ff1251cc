"""The objective of image diffusion: noise a latent, let the network say what was added, compare."""

# B batch, C channels, H height, W width (of latents), T training timesteps

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.data.image_batches import MicroBatch
from trainers.errors import ReasonCode, TrainerError
from trainers.losses import PredictionType, add_noise, alphas_cumprod, mean_square, min_snr_weight, target
from trainers.models.base import Base


@dataclass(frozen=True)
class Denoising:
    """Callable as the loop's loss: a micro-batch -> the sum over its samples of the weighted mean square."""

    network: nn.Module
    device: torch.device
    alphas_cumprod_T: Tensor
    """On the CPU, fp32."""
    prediction_type: PredictionType
    snr_gamma: float | None
    dtype: torch.dtype
    """Compute dtype of the frozen base; the loss is fp32."""

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.device
        abar_B = self.alphas_cumprod_T[batch.times_B]
        noisy_BCHW = add_noise(batch.latents_BCHW, batch.noise_BCHW, abar_B)
        target_BCHW = target(self.prediction_type, batch.latents_BCHW, batch.noise_BCHW, abar_B)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            predicted_BCHW = self.network(
                _to(noisy_BCHW, device, self.dtype),
                _to(batch.times_B, device),
                encoder_hidden_states=_to(batch.text["prompt"], device, self.dtype),
                return_dict=False,
            )[0]
        loss_B = mean_square(predicted_BCHW, _to(target_BCHW, device))
        if self.snr_gamma is not None:
            loss_B = loss_B * _to(min_snr_weight(self.prediction_type, abar_B, self.snr_gamma), device)
        return (loss_B * _to(batch.weights_B, device)).sum(), {}


def denoising(base: Base, device: torch.device, *, snr_gamma: float | None, dtype: torch.dtype) -> Denoising:
    """The objective on the base model's own betas and prediction type.

    TrainerError BAD_PARAMETERS: epsilon on a base whose last step has no signal, where it says nothing.
    """
    try:
        abar_T = alphas_cumprod(base.scheduler_config)
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"scheduler/scheduler_config.json: {error}") from error
    prediction_type = base.scheduler_config.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type epsilon or v_prediction, got {prediction_type!r}"
        )
    if prediction_type == "epsilon" and abar_T[-1] <= 0:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "prediction_type='epsilon' cannot be trained on this base model, whose noise schedule ends without any "
            "signal (rescale_betas_zero_snr); choose prediction_type='v_prediction'",
        )
    return Denoising(base.network, device, abar_T, prediction_type, snr_gamma, dtype)


def _to(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """To the device without waiting for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device=device, dtype=dtype or tensor.dtype, non_blocking=True)
