"""The chunked cross entropy against torch's, values and gradients."""

import pytest
import torch
from torch import Tensor

from tests.tolerance import PRODUCT
from trainers.text.objective import linear_cross_entropy as chunked
from trainers.text.objective.linear_cross_entropy import linear_cross_entropy, linear_predicted

pytestmark = pytest.mark.numeric

N, D, V = 37, 8, 211


def parts(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    biases = torch.randn(V, generator=generator).to(dtype).requires_grad_() if bias else None
    return features, weight, biases, torch.randint(V, (N,), generator=generator)


def plain(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(features, weight, bias), targets, reduction="none"
    )


def gradients(nll_N: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    slopes_N = torch.linspace(-1, 2, N)
    return list(torch.autograd.grad((nll_N * slopes_N).sum(), [tensor for tensor in inputs if tensor is not None]))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked.CHUNK_LOGITS, "cpu", 16 * V)
    monkeypatch.setattr(chunked, "SLICE_ROWS", 50)


@pytest.mark.parametrize("bias", [False, True])
def test_a_trained_head_equals_the_plain_values_and_gradients(bias: bool) -> None:
    features, weight, biases, targets = parts(bias=bias)
    result, expected = linear_cross_entropy(features, weight, biases, targets), plain(features, weight, biases, targets)
    torch.testing.assert_close(result, expected, **PRODUCT)
    for ours, reference in zip(
        gradients(result, features, weight, biases), gradients(expected, features, weight, biases), strict=True
    ):
        torch.testing.assert_close(ours, reference, **PRODUCT)


def test_a_frozen_head_gets_no_gradient_and_the_features_the_plain_gradient() -> None:
    features, weight, bias, targets = parts()
    assert bias is not None
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    result = gradients(linear_cross_entropy(features, weight, bias, targets), features)
    torch.testing.assert_close(result, gradients(plain(features, weight, bias, targets), features), **PRODUCT)


def test_the_softmax_leaves_out_a_suppressed_token() -> None:
    features, weight, bias, targets = parts()
    assert bias is not None
    targets = torch.where(targets == 7, 8, targets)
    result = linear_cross_entropy(features, weight, bias, targets, suppress=7)
    remaining = [index for index in range(V) if index != 7]
    moved = torch.where(targets > 7, targets - 1, targets)
    torch.testing.assert_close(result, plain(features, weight[remaining], bias[remaining], moved), **PRODUCT)
    (gradient,) = gradients(result, weight)
    assert not gradient[7].any()


def test_half_precision_factors_are_summed_in_fp32() -> None:
    features, weight, bias, targets = parts(dtype=torch.bfloat16)
    assert bias is not None
    expected = plain(features.float(), weight.float(), bias.float(), targets)
    torch.testing.assert_close(linear_cross_entropy(features, weight, bias, targets), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True])
def test_autocast_rounds_the_factors_and_gradients_stay_fp32(trained: bool) -> None:
    features, weight, _, targets = parts()
    weight.requires_grad_(trained)
    with torch.autocast("cpu", torch.bfloat16):
        result = linear_cross_entropy(features, weight, None, targets)
    expected = plain(features.bfloat16().float(), weight.bfloat16().float(), None, targets)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    inputs = (features, weight) if trained else (features,)
    for ours, reference in zip(gradients(result, *inputs), gradients(expected, *inputs), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, reference, rtol=2e-2, atol=2e-2)


def test_no_scored_tokens_give_an_empty_loss_and_zero_gradients() -> None:
    features, weight, bias, targets = parts()
    nll = linear_cross_entropy(features[:0], weight, bias, targets[:0])
    nll.sum().backward()  # type: ignore[no-untyped-call]
    assert nll.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_predictions_have_the_same_nll_and_the_plain_argmax() -> None:
    features, weight, bias, targets = parts()
    logits = torch.nn.functional.linear(features, weight, bias)
    targets[:5] = logits.argmax(-1)[:5]
    result = linear_predicted(features, weight, bias, targets)
    torch.testing.assert_close(result.nll_N, plain(features, weight, bias, targets), **PRODUCT)
    assert result.hit_N.tolist() == (logits.argmax(-1) == targets).tolist()


def test_only_a_chunk_of_the_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = chunked._logits

    def spied(features_CD: Tensor, *rest: object) -> Tensor:
        sizes.append(len(features_CD))
        return real(features_CD, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(chunked, "_logits", spied)
    features, weight, bias, targets = parts()
    gradients(linear_cross_entropy(features, weight, bias, targets), features, weight)
    assert max(sizes) == 16
    assert sum(sizes) == 2 * N
