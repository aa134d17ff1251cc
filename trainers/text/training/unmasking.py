"""The objective of text diffusion: predict what is masked. Hidden states of scored positions only meet the head."""

# D width, N masked tokens, V vocabulary

from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.text.data.batches import TextMicroBatch
from trainers.text.models.base import TextBase, head_features, head_weight, hidden_packed, hidden_padded
from trainers.text.objective.linear_cross_entropy import Predicted, linear_cross_entropy, linear_predicted


@dataclass(frozen=True)
class Unmasking:
    """Micro-batch -> its part of the loss, whose norm over the global batch lies in the weights."""

    base: TextBase
    device: torch.device
    dtype: torch.dtype
    """Of the computation; fp32 weights are rounded to it where they multiply."""
    suppress: int | None
    """A token that is never predicted."""

    def __call__(self, batch: TextMicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with self._precision():
            features_ND = self._features(batch)
            weight_VD, bias_V = head_weight(self.base)
            targets_N = batch.targets_N.to(self.device)
            nll_N = linear_cross_entropy(features_ND, weight_VD, bias_V, targets_N, suppress=self.suppress)
        mean = (nll_N.detach() * batch.masked_share_N.to(self.device)).sum()
        return (nll_N * batch.weights_N.to(self.device)).sum(), {"masked_nll": mean}

    @torch.no_grad()
    def predicted(self, batch: TextMicroBatch) -> Predicted:
        """nll and hits of the masked tokens, without gradients."""
        with self._precision():
            features_ND = self._features(batch)
            weight_VD, bias_V = head_weight(self.base)
            targets_N = batch.targets_N.to(self.device)
            return linear_predicted(features_ND, weight_VD, bias_V, targets_N, suppress=self.suppress)

    def _features(self, batch: TextMicroBatch) -> Tensor:
        ids = batch.ids.to(self.device)
        if batch.packed:
            hidden_TD = hidden_packed(self.base, ids, batch.lengths)
        else:
            seen = None if batch.attention_BL is None else batch.attention_BL.to(self.device)
            hidden_TD = hidden_padded(self.base, ids, seen).flatten(0, 1)
        return head_features(self.base, hidden_TD[batch.read_N.to(self.device)])

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
