import pytest
import torch

from trainers.optim import ScheduleName, adamw, schedule

PINNED: list[tuple[ScheduleName, list[float]]] = [
    ("constant", [1, 1, 1, 1, 1, 1, 1]),
    ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1, 1]),
    ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
    ("cosine", [0, 0.5, 1, 0.8535534, 0.5, 0.1464466, 0]),
]


@pytest.mark.parametrize(("name", "multipliers"), PINNED)
def test_schedules_have_their_closed_form(name: ScheduleName, multipliers: list[float]) -> None:
    warmup = 0 if name == "constant" else 2
    found = [schedule(name, warmup_steps=warmup, total_steps=6)(step) for step in range(7)]
    assert found == pytest.approx(multipliers, abs=1e-7)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert schedule("cosine", warmup_steps=0, total_steps=10)(0) == 1.0


def test_a_warmup_longer_than_the_job_never_reaches_the_full_rate() -> None:
    assert schedule("linear", warmup_steps=50, total_steps=10)(9) == pytest.approx(0.18)


def test_adamw_is_the_textbook_update() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw([weight], learning_rate=0.1, betas=(0.8, 0.9), weight_decay=0.05, epsilon=1e-3)
    expected, m, v = weight.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate([torch.tensor([0.5, -1.0]), torch.tensor([0.1, 2.0])], start=1):
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        update = (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-3)
        expected = expected * (1 - 0.1 * 0.05) - 0.1 * update
    assert torch.allclose(weight.detach(), expected, atol=1e-6)
