"""Muon for the matrices of a network's body, AdamW for everything else, as one optimizer.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
orthogonal one, which five Newton-Schulz iterations approximate. Its rate is that of Liu et al. 2025 (arXiv 2502.16982,
section 2.2): an update of RMS 0.2, like AdamW's, so that one learning rate serves all parameters. The reference is
`torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`.
"""

# N matrices of one shape, R rows, C columns

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of one iteration X <- a X + (b A + c A A) X with A = X X^T."""
ITERATIONS = 5
EPSILON = 1e-7
BATCH_ELEMENTS = {"cpu": 1 << 16}
"""Elements of matrices that are iterated as one batch, by device type: on a CPU a batch helps only small matrices."""
OTHER_BATCH_ELEMENTS = 1 << 26
"""On an accelerator; bounds the memory of the stacked copies."""

Kind = Literal["muon", "adamw"]


@dataclass(frozen=True)
class Route:
    """Which optimizer updates a parameter, and why."""

    name: str
    parameter: nn.Parameter
    kind: Kind
    decays: bool
    reason: str


def routes(model: nn.Module) -> list[Route]:
    """A route for each trained parameter, in the order of `named_parameters`.

    The weight of a linear layer takes Muon, unless the layer is the head. Embeddings, head, norms and biases take
    AdamW. Weight decay is for matrices: linear layers and a head of its own, never an embedding, a norm or a bias.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    head = _head(model)
    head_id = None if head is None else id(getattr(head, "weight", None))

    def route(name: str, parameter: nn.Parameter) -> Route:
        if id(parameter) in embeddings:
            return Route(name, parameter, "adamw", False, "embedding")
        if id(parameter) == head_id:
            return Route(name, parameter, "adamw", True, "head")
        if id(parameter) in linear:
            return Route(name, parameter, "muon", True, "matrix of a linear layer")
        return Route(name, parameter, "adamw", False, "bias" if name.endswith("bias") else "norm or other vector")

    return [route(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def routes_table(table: Iterable[Route]) -> str:
    """The routes as lines for the log, parameters of one kind, shape and reason together."""
    counts: dict[tuple[str, str, str, str], list[str]] = {}
    for route in table:
        shape = " x ".join(map(str, route.parameter.shape))
        counts.setdefault((route.kind, shape, "decay" if route.decays else "no decay", route.reason), []).append(
            route.name
        )
    rows = [
        (kind, shape, decay, reason, str(len(names)), names[0])
        for (kind, shape, decay, reason), names in counts.items()
    ]
    heads = ("optimizer", "shape", "weight decay", "reason", "count", "first")
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [heads, *rows]
    )


class Muon(torch.optim.Optimizer):
    """Muon and AdamW by the parameters' routes.

    `dtype`: of the Newton-Schulz iterations, see `iteration_dtype`. Momentum and moments have the parameters' dtype.
    """

    def __init__(
        self,
        table: Sequence[Route],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        epsilon: float,
        dtype: torch.dtype,
    ) -> None:
        groups: dict[tuple[Kind, bool], list[nn.Parameter]] = {}
        for route in table:
            groups.setdefault((route.kind, route.decays), []).append(route.parameter)
        self.dtype = dtype
        super().__init__(
            [
                {"params": parameters, "kind": kind, "weight_decay": weight_decay if decays else 0.0}
                for (kind, decays), parameters in sorted(groups.items(), reverse=True, key=lambda item: item[0])
            ],
            {"lr": learning_rate, "betas": betas, "eps": epsilon},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # as torch's
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["kind"] == "muon":
                self._muon_step(group, parameters)
            elif parameters:
                self._adamw_step(group, parameters)
        return loss

    def _muon_step(self, group: dict[str, Any], parameters: Sequence[nn.Parameter]) -> None:
        learning_rate, decay = group["lr"], group["weight_decay"]
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for (rows, columns), same in by_shape.items():
            rate = learning_rate * 0.2 * math.sqrt(max(rows, columns))
            size = batch_size(same[0])
            for part in (same[start : start + size] for start in range(0, len(same), size)):
                updates = [self._momentum_update(parameter) for parameter in part]
                for parameter, update in zip(part, orthogonalized(updates, self.dtype), strict=True):
                    parameter.mul_(1 - learning_rate * decay)
                    parameter.add_(update, alpha=-rate)

    def _momentum_update(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's momentum of the gradient, in place of the gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        momentum: Tensor = state["momentum_buffer"]
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)

    def _adamw_step(self, group: dict[str, Any], parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalized(updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The nearly orthogonal matrix of each (R, C): all of one shape, iterated together where there are several."""
    rows, columns = updates[0].shape
    wide = [update.to(dtype) if rows <= columns else update.to(dtype).mT for update in updates]
    result = newton_schulz(torch.stack(wide)) if len(wide) > 1 else newton_schulz(wide[0][None])
    return list(result if rows <= columns else result.mT)


def newton_schulz(matrices_NRC: Tensor) -> Tensor:
    """Moves all singular values of each matrix near 1 (into about 0.7 to 1.2); at most as many rows as columns."""
    a, b, c = COEFFICIENTS
    norms_N11 = torch.linalg.vector_norm(matrices_NRC, dim=(1, 2), keepdim=True)
    x_NRC: Tensor = matrices_NRC / norms_N11.clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = torch.baddbmm(x_NRC, torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c), x_NRC, beta=a)
    return x_NRC


def batch_size(parameter: Tensor) -> int:
    """How many matrices like this one are iterated together."""
    return max(1, BATCH_ELEMENTS.get(parameter.device.type, OTHER_BATCH_ELEMENTS) // parameter.numel())


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, for which the iterations were designed; float32 on a CPU, where few have instructions for bfloat16."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def _head(model: nn.Module) -> nn.Module | None:
    """The output layer of a transformers model; None for a network without one."""
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    return outputs if isinstance(outputs, nn.Module) else None
