"""The benches of text diffusion, in small: both sides compute the same loss, and the accelerator's runs anywhere."""

import pytest
import torch

from bench import masked_text, text_accelerator


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VOCABULARY": 300, "MASK": 299, "EOS": 298}.items():
        monkeypatch.setattr(masked_text, name, value)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_plain_step_and_ours_have_the_same_loss(kind: str) -> None:
    plain, ours = (masked_text.measured(side, 64, kind, 3, 1) for side in ("plain", "ours"))
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert min(plain["tokens_per_second"], ours["tokens_per_second"]) > 0


def test_the_recurrence_is_measured_against_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_text, "CART_LENGTH", 64)
    assert masked_text.cart_row()[0] == "64 tokens"


def test_the_accelerator_bench_runs_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert text_accelerator.main(["--tiny", "--steps", "1"]) == 0
    output = capsys.readouterr().out
    assert "| tiny LLaDA, LoRA | 2 x 32 |" in output
    assert "| tiny ModernBERT | 2 x 32 |" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="an accelerator is here, so it would be measured")
def test_the_accelerator_bench_says_that_there_is_no_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    assert text_accelerator.main([]) == 0
    assert "nothing measured: no CUDA accelerator here" in capsys.readouterr().out


def test_operations_of_a_token_are_counted_by_hand() -> None:
    row = text_accelerator.TINY_ROWS["llada"]
    base = text_accelerator.base_of(row, torch.device("cpu"))
    layer = 4 * 64 * 64 + 3 * 64 * 96
    expected = 4 * (2 * layer + 300 * 64 / 2) + 12 * 64 * 2 * 32
    assert text_accelerator.operations_per_token(row, base) == expected
