import sys
from pathlib import Path

import pytest
import torch

from tests.tolerance import PRODUCT, assert_near
from trainers.contract.errors import TrainerError
from trainers.core.checkpoint import State, checkpoint_load, checkpoint_save, optimizer_load_state, optimizer_state
from trainers.core.optim import Ema, Group, OptimizerName, ScheduleName, ema_decay_at, optimizer_of, schedule
from trainers.optional.libraries import optional_module

pytestmark = pytest.mark.numeric

PINNED: list[tuple[ScheduleName, list[float]]] = [
    ("constant", [1, 1, 1, 1, 1, 1, 1]),
    ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1, 1]),
    ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
    ("cosine", [0, 0.5, 1, 0.8535534, 0.5, 0.1464466, 0]),
]


@pytest.mark.parametrize(("name", "multipliers"), PINNED)
def test_schedules_have_their_closed_form(name: ScheduleName, multipliers: list[float]) -> None:
    warmup = 0 if name == "constant" else 2
    result = [schedule(name, warmup_steps=warmup, total_steps=6)(step) for step in range(7)]
    assert result == pytest.approx(multipliers, abs=1e-7)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert schedule("cosine", warmup_steps=0, total_steps=10)(0) == 1.0


def test_a_warmup_longer_than_the_job_never_reaches_the_full_rate() -> None:
    assert schedule("linear", warmup_steps=50, total_steps=10)(9) == pytest.approx(0.18)


def test_adamw_is_the_textbook_update() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    groups = [Group("network", [weight], 0.1)]
    optimizer = optimizer_of("adamw", groups, betas=(0.8, 0.9), weight_decay=0.05, epsilon=1e-3)
    expected, m, v = weight.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate([torch.tensor([0.5, -1.0]), torch.tensor([0.1, 2.0])], start=1):
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        update = (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-3)
        expected = expected * (1 - 0.1 * 0.05) - 0.1 * update
    assert_near(weight.detach(), expected, PRODUCT)


OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "adamw8bit", "prodigy", "adafactor", "lion")


def optimizer_on(name: OptimizerName, *shapes: tuple[int, ...]) -> torch.optim.Optimizer:
    """One group a shape; large ones are kept in 8 bits by adamw8bit."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        Group(
            f"group{i}",
            [torch.nn.Parameter(torch.randn(shape, generator=generator))],
            1.0 if name == "prodigy" else 1e-2,
        )
        for i, shape in enumerate(shapes)
    ]
    return optimizer_of(name, groups, betas=(0.9, 0.999), weight_decay=0.01, epsilon=1e-8)


def weights_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def descend(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Towards 0, from wherever the weights are."""
    for _ in range(steps):
        sum((weight - 0.1).square().sum() for weight in weights_of(optimizer)).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: OptimizerName) -> None:
    optimizer = optimizer_on(name, (6, 4))
    before = weights_of(optimizer)[0].abs().sum().item()
    descend(optimizer, 40)
    assert weights_of(optimizer)[0].abs().sum().item() < before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_from_a_checkpoint_continues_bit_for_bit(name: OptimizerName, tmp_path: Path) -> None:
    complete, first, second = (optimizer_on(name, (128, 64), (8, 4)) for _ in range(3))
    descend(complete, 5)
    descend(first, 2)
    state = optimizer_state(first)
    checkpoint_save(tmp_path, step=2, tensors={"optimizer": state.tensors}, state={"o": state.values}, keep=1)
    loaded = checkpoint_load(tmp_path / "step-00000002")
    with torch.no_grad():
        for weight, value in zip(weights_of(second), weights_of(first), strict=True):
            weight.copy_(value)
    optimizer_load_state(second, State(loaded.tensors["optimizer"], loaded.state["o"]))
    descend(second, 3)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(second), weights_of(complete), strict=True))


def test_adamw8bit_keeps_large_moments_in_8_bits() -> None:
    optimizer = optimizer_on("adamw8bit", (128, 64), (8, 4))
    descend(optimizer, 1)
    tensors = optimizer_state(optimizer).tensors
    assert (tensors["0.state1"].dtype, tensors["1.state1"].dtype) == (torch.uint8, torch.float32)


def test_adamw8bit_of_small_matrices_is_adamw() -> None:
    exact, small = optimizer_on("adamw", (8, 4)), optimizer_on("adamw8bit", (8, 4))
    descend(exact, 5)
    descend(small, 5)
    assert_near(weights_of(small)[0], weights_of(exact)[0], PRODUCT)


def test_lion_is_the_textbook_update() -> None:
    optimizer = optimizer_on("lion", (6,))
    weight = weights_of(optimizer)[0]
    expected, momentum = weight.detach().clone(), torch.zeros(6)
    for _ in range(3):
        gradient = 2 * (expected - 0.1)
        expected = expected * (1 - 1e-2 * 0.01) - 1e-2 * torch.sign(0.9 * momentum + 0.1 * gradient)
        momentum = 0.999 * momentum + 0.001 * gradient
        descend(optimizer, 1)
        assert_near(weight.detach(), expected, PRODUCT)


def test_adafactor_moves_by_its_rate_though_the_weight_is_zero() -> None:
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = optimizer_of("adafactor", [Group("n", [weight], 1e-2)], betas=(0, 0), weight_decay=0, epsilon=1e-8)
    weight.grad = torch.ones(6, 4)
    optimizer.step()
    assert_near(weight.detach(), torch.full((6, 4), -1e-2), PRODUCT)


def test_prodigy_finds_its_rate() -> None:
    optimizer = optimizer_on("prodigy", (6, 4))
    descend(optimizer, 30)
    assert optimizer.param_groups[0]["d"] > 5 * optimizer.param_groups[0]["d0"]


def test_groups_have_their_rates_and_names_where_there_are_several() -> None:
    network, text = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [Group("network", [network], 1e-3), Group("text_encoder", [text], 1e-4)]
    several = optimizer_of("adamw", groups, betas=(0.9, 0.999), weight_decay=0, epsilon=1e-8)
    alone = optimizer_of(
        "adamw", [groups[0], Group("text_encoder", [], 1e-4)], betas=(0.9, 0.999), weight_decay=0, epsilon=1e-8
    )
    assert [(group["name"], group["lr"]) for group in several.param_groups] == [
        ("network", 1e-3),
        ("text_encoder", 1e-4),
    ]
    assert ["name" in group for group in alone.param_groups] == [False]


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(TrainerError, match=r"lion_pytorch is not installed .* install anneal\[optimizers\]") as caught:
        optimizer_on("lion", (2,))
    assert caught.value.reason.code == "missing_library"


def test_a_broken_import_of_ours_is_not_called_a_missing_library() -> None:
    with pytest.raises(ModuleNotFoundError):
        optional_module("trainers.with_nothing", "optimizers")


def test_the_decay_warms_up_to_the_requested_one() -> None:
    assert [ema_decay_at(0.9, step) for step in (1, 10, 1000)] == pytest.approx([2 / 11, 11 / 20, 0.9])


def test_the_average_follows_its_recurrence() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 5.0]))
    ema, expected = Ema([weight], 0.9999), weight.detach().clone()
    for step in range(1, 6):
        weight.data += 0.5
        ema.update(step)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * weight.detach()
    with ema.applied():
        assert_near(weight.detach(), expected, PRODUCT)
    assert weight.tolist() == [3.5, 7.5]


def test_the_weights_come_back_after_a_failure_too() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema([weight], 0.9)
    weight.data.fill_(3.0)
    with pytest.raises(RuntimeError), ema.applied():
        assert weight.item() == 1.0
        raise RuntimeError
    assert weight.item() == 3.0


def test_a_restored_state_is_the_same_average() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    ema = Ema([weight], 0.99)
    weight.data += 1
    ema.update(1)
    other = Ema([weight], 0.99)
    other.load_state({name: value.clone() for name, value in ema.state().items()})
    assert all(torch.equal(value, ema.state()[name]) for name, value in other.state().items())
