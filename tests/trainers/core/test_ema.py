import pytest
import torch

from tests.tolerance import PRODUCT, assert_near
from trainers.core.ema import Ema, ema_decay_at

pytestmark = pytest.mark.numeric


def test_the_decay_warms_up_to_the_one_asked() -> None:
    assert [ema_decay_at(0.9, step) for step in (1, 10, 1000)] == pytest.approx([2 / 11, 11 / 20, 0.9])


def test_the_average_is_its_recurrence() -> None:
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


def test_a_state_put_back_is_the_same_average() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    ema = Ema([weight], 0.99)
    weight.data += 1
    ema.update(1)
    other = Ema([weight], 0.99)
    other.load_state({name: value.clone() for name, value in ema.state().items()})
    assert all(torch.equal(value, ema.state()[name]) for name, value in other.state().items())
