"""Answers and filled masks of tiny text bases: batches, caches, guidance, ends."""

from typing import Any

import pytest
import torch

from tests.tiny_text import BUILDERS
from trainers.contract.errors import TrainerError
from trainers.text.models.base import TextBase, hidden_padded, logits
from trainers.text.models.load import load_text
from trainers.text.sampling.masked import FROM_INPUT
from trainers.text.sampling.texts import Decoding, answers_sample, masks_fill


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextBase]:
    root = tmp_path_factory.mktemp("sampling")
    families = ("llada", "dream", "bert", "modernbert")
    return {family: load_text(BUILDERS[family](root / family), torch.float64) for family in families}


PROMPTS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16, 17, 18]]
SEEDS = [1, 2, 3]


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_mixed_prompts_in_a_batch_equal_single_ones(bases: dict[str, TextBase], family: str, cache: Any) -> None:
    base = bases[family]
    decoding = Decoding(max_new_tokens=12, steps=12, block_size=6, temperature=0.7, cfg_scale=0.5, cache=cache)
    together = answers_sample(base, PROMPTS, decoding, SEEDS)
    for index, prompt in enumerate(PROMPTS):
        (alone,) = answers_sample(base, [prompt], decoding, [SEEDS[index]])
        assert alone == together[index]
        assert list(alone.ids[: len(prompt)]) == prompt and len(alone.ids) == len(prompt) + 12
        assert base.mask_id not in alone.ids


@torch.no_grad()
def test_dreams_logits_are_shifted_right(bases: dict[str, TextBase]) -> None:
    base = bases["dream"]
    text = [5, 6, base.mask_id, 7]
    raw = logits(base, hidden_padded(base, torch.tensor([text])))[0, 1]
    raw[base.mask_id] = -torch.inf
    (result,) = masks_fill(base, [text], Decoding(steps=1), [0])
    assert result.ids[2] == int(raw.argmax())
    (first,) = masks_fill(base, [[base.mask_id, 6]], Decoding(steps=1), [0])
    unshifted = logits(base, hidden_padded(base, torch.tensor([[base.mask_id, 6]])))[0, 0]
    unshifted[base.mask_id] = -torch.inf
    assert first.ids[0] == int(unshifted.argmax())


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_is_exact_where_each_block_takes_one_step(bases: dict[str, TextBase], family: str, cache: Any) -> None:
    """The first step of a block computes everything; later ones see a stale past, so only then may tokens differ."""
    plain = Decoding(max_new_tokens=12, steps=3, block_size=4)
    held = Decoding(max_new_tokens=12, steps=3, block_size=4, cache=cache)
    assert answers_sample(bases[family], PROMPTS, held, SEEDS) == answers_sample(bases[family], PROMPTS, plain, SEEDS)


def test_a_cached_step_computes_fewer_columns(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    widths_by_cache: dict[str, list[int]] = {}
    for cache in ("none", "prefix", "dual"):
        widths: list[int] = []
        hook = base.model.model.layers[0].register_forward_hook(
            lambda _module, _inputs, out, w=widths: w.append(int(out.shape[1]))
        )
        answers_sample(base, [[5] * 8], Decoding(max_new_tokens=8, steps=8, block_size=4, cache=cache), [0])  # type: ignore[arg-type]
        hook.remove()
        widths_by_cache[cache] = widths
    assert widths_by_cache == {
        "none": [16] * 8,
        "prefix": [16, 8, 8, 8, 16, 4, 4, 4],
        "dual": [16, 4, 4, 4, 16, 4, 4, 4],
    }


def test_guidance_moves_away_from_the_unconditional_logits(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    text = [5, 6, base.mask_id, 7]
    with torch.no_grad():
        seeing = logits(base, hidden_padded(base, torch.tensor([text])))[0, 2]
        blind = logits(base, hidden_padded(base, torch.tensor([[base.mask_id] * 4])))[0, 2]
    expected = blind + 3 * (seeing - blind)
    expected[base.mask_id] = -torch.inf
    (result,) = masks_fill(base, [text], Decoding(steps=1, cfg_scale=2.0), [0])
    assert result.ids[2] == int(expected.argmax()) != int(seeing.argmax())


def test_an_answer_ends_at_its_end_token(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    everything = set(range(base.vocab_size)) - {base.eos_id}
    ended = Decoding(max_new_tokens=4, steps=4, suppress_tokens=tuple(sorted(everything)))
    (result,) = answers_sample(base, [[5, 6]], ended, [0])
    assert result.ids == (5, 6, *[base.eos_id] * 4) and result.text == "" and result.answer_ids == ()
    assert (
        result.trace[:2] == (FROM_INPUT, FROM_INPUT) and sorted(result.trace[2:]) == [0, 1, 2, 3] and result.steps == 4
    )


def test_a_prompt_without_room_for_its_answer_is_refused(bases: dict[str, TextBase]) -> None:
    with pytest.raises(TrainerError, match="take 260 positions, but the base model has 256"):
        answers_sample(bases["llada"], [[5] * 10], Decoding(max_new_tokens=250), [0])


def test_sampling_restores_train_mode(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    base.model.train()
    answers_sample(base, [[5]], Decoding(max_new_tokens=2, steps=2), [0])
    assert base.model.training
    base.model.eval()


def test_a_threshold_takes_fewer_steps_where_the_network_is_confident(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    slow = Decoding(max_new_tokens=12, steps=12, block_size=12)
    (one,) = answers_sample(base, [PROMPTS[0]], slow, [0])
    (fast,) = answers_sample(base, [PROMPTS[0]], Decoding(max_new_tokens=12, block_size=12, threshold=0.02), [0])
    assert fast.steps < one.steps == 12
