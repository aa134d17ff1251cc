"""Documents of a global batch: cut, filled, noised, laid end to end or padded."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainers.text.data.batches import Recipe, TextMicroBatch, TextPlan, document_noised, prepare_batch, text_step_batch
from trainers.text.data.chat import Encoded, Role
from trainers.text.data.dataset import EosPadding, documents_of, response_length
from trainers.text.objective.corruption import cart_weights, document_time

MASK, EOS, PAD, BOS = 90, 91, 92, 93
RECIPE = Recipe(
    seed=1,
    mask_id=MASK,
    eos_id=EOS,
    pad_id=PAD,
    bos_id=BOS,
    shift=False,
    packing=True,
    padding=EosPadding("masked"),
    mask_prompt_loss=True,
    schedule="linear",
    epsilon=1e-3,
    antithetic=True,
    weighting="scheduler",
    geo_p=None,
    norm="token",
    cuts_per_batch=False,
    cut_ratio=0.0,
)


def document(prompt: int, response: int) -> Encoded:
    """Ids 0, 1, 2, ..."""
    roles = [Role.PROMPT] * prompt + [Role.RESPONSE] * response
    return Encoded(np.arange(len(roles), dtype=np.int32), np.array(roles, np.uint8))


DOCUMENTS = [document(3, 5), document(2, 9), document(4, 2), document(1, 7)]


def lengths(batch: list[Encoded]) -> list[int]:
    return [len(item.ids_L) for item in batch]


def step(recipe: Recipe = RECIPE, step: int = 0, rank: int = 0, **plan: Any) -> list[TextMicroBatch]:
    settings = {"batch_size": 4, "accumulation": 1, "world_size": 1, "seed": 1} | plan
    step_batch = text_step_batch(DOCUMENTS, range(4), recipe, TextPlan(num_documents=4, **settings), step, rank)
    return list(step_batch.micro_batches)


@pytest.mark.parametrize(
    ("text", "row", "batch"),
    [
        ("block:4", [3, 3, 2, 1], [0, 0, 0, 0]),
        ("single", [1, 1, 1, 1], [0, 0, 0, 0]),
        ("masked", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("supervised", [0, 0, 0, 0], [3, 0, 5, 3]),
        ("cap:2", [0, 0, 0, 0], [2, 0, 2, 2]),
    ],
)
def test_end_tokens_of_each_padding(text: str, row: list[int], batch: list[int]) -> None:
    padding = EosPadding.parse(text)
    assert [padding.fill_of(item, EOS) for item in DOCUMENTS] == row
    assert padding.fill_in_batch(lengths(DOCUMENTS)) == batch


def test_end_tokens_are_scored_and_never_beyond_max_length() -> None:
    result, _, _ = documents_of(
        DOCUMENTS, max_length=12, truncation="right", padding=EosPadding("block", 8), eos_id=EOS
    )
    assert lengths(result) == [11, 12, 12, 9]
    assert result[0].ids_L[8:].tolist() == [EOS] * 3
    assert response_length(result[0]) == 8


@pytest.mark.parametrize(
    ("truncation", "remaining", "counts"),
    [("right", [0, 1, 3], (3, 0, 1)), ("filter", [], (0, 4, 0))],
)
def test_long_rows_are_cut_or_dropped_and_counted(
    truncation: Any, remaining: list[int], counts: tuple[int, ...]
) -> None:
    documents, origins, result = documents_of(
        DOCUMENTS, max_length=4, truncation=truncation, padding=EosPadding("masked"), eos_id=EOS
    )
    assert origins == remaining
    assert (result.truncated, result.filtered, result.without_response) == counts
    assert result.documents == len(documents) == len(remaining)
    assert result.tokens == sum(lengths(documents))


def test_every_response_is_cut_to_one_of_the_batch() -> None:
    recipe = replace(RECIPE, cuts_per_batch=True)
    for index in range(8):
        responses = [response_length(item) for item in prepare_batch(DOCUMENTS, recipe, index)]
        assert responses in [[min(r, most) for r in (5, 9, 2, 7)] for most in (5, 9, 2, 7)]


def test_columns_are_cut_after_the_responses_and_leave_a_token_of_each() -> None:
    both = replace(RECIPE, cuts_per_batch=True, cut_ratio=1.0)
    shapes = [prepare_batch(DOCUMENTS, both, index) for index in range(30)]
    assert min(response_length(item) for batch in shapes for item in batch) >= 1
    alone = [prepare_batch(DOCUMENTS, replace(both, cut_ratio=0.0), index) for index in range(30)]
    assert any(max(lengths(a)) < max(lengths(b)) for a, b in zip(shapes, alone, strict=True))
    only = [lengths(prepare_batch(DOCUMENTS, replace(RECIPE, cut_ratio=1.0), index)) for index in range(5)]
    assert all(result == [8, 10, 6, 8] for result in only)  # the shortest response has 2 tokens, so one column goes


@pytest.mark.parametrize("padding", ["cap:4", "supervised", "masked"])
@pytest.mark.parametrize("settings", [{"cuts_per_batch": True}, {"cut_ratio": 1.0}], ids=str)
def test_no_end_token_follows_a_cut_response(padding: str, settings: dict[str, Any]) -> None:
    """A document that lost tokens of its response ends with what was left of it."""
    recipe = replace(RECIPE, packing=False, padding=EosPadding.parse(padding), **settings)
    for index in range(20):
        for full, shaped in zip(DOCUMENTS, prepare_batch(DOCUMENTS, recipe, index), strict=True):
            content = shaped.ids_L[shaped.roles_L != Role.FILL].tolist()
            assert content == full.ids_L[: len(content)].tolist()
            assert len(content) == len(full.ids_L) or EOS not in shaped.ids_L


def test_prompts_are_masked_only_where_they_are_scored() -> None:
    for mask_prompt_loss in (True, False):
        recipe = replace(RECIPE, mask_prompt_loss=mask_prompt_loss)
        noised = [document_noised(DOCUMENTS[0], recipe, index, 0, 1) for index in range(40)]
        assert any(item.masked_L[:3].any() for item in noised) is not mask_prompt_loss
        assert any(item.masked_L[3:].any() for item in noised)


def test_with_a_shift_a_batch_gets_a_bos_if_a_document_is_learned_from_its_first_token() -> None:
    shifted = replace(RECIPE, shift=True, mask_prompt_loss=False)
    result = prepare_batch(DOCUMENTS, shifted, 0)
    assert all(item.ids_L[0] == BOS for item in result)
    noised = [document_noised(result[0], shifted, index, 0, 1) for index in range(40)]
    assert not any(item.maskable_L[0] for item in noised)
    assert all(item.maskable_L[1:].all() for item in noised)
    assert lengths(prepare_batch(DOCUMENTS, replace(shifted, mask_prompt_loss=True), 0)) == lengths(DOCUMENTS)
    assert lengths(prepare_batch(DOCUMENTS, replace(shifted, shift=False), 0)) == lengths(DOCUMENTS)


def test_weights_of_each_kind() -> None:
    def weights(**settings: Any) -> tuple[float, np.ndarray, np.ndarray]:
        noised = document_noised(DOCUMENTS[1], replace(RECIPE, **settings), 5, 0, 1)
        return document_time(1, 5, 0, 1, epsilon=1e-3, antithetic=True), noised.masked_L, noised.weights_L

    time, masked_L, by_time_L = weights()
    assert masked_L.any()
    assert by_time_L == pytest.approx(masked_L / (time + 1e-6))
    assert weights(weighting="uniform")[2] == pytest.approx(masked_L.astype(float))
    assert weights(weighting="cart[geo_p:.3]", geo_p=0.3)[2] == pytest.approx(cart_weights(masked_L, 0.3))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_targets_are_predicted_by_the_right_positions(packing: bool, shift: bool) -> None:
    recipe = replace(RECIPE, packing=packing, shift=shift)
    (batch,) = step(recipe)
    flat = batch.ids.reshape(-1)
    assert (flat == MASK).sum() == len(batch.targets_N)
    masked_N = batch.read_N + int(shift)
    assert (flat[masked_N] == MASK).all()
    width = batch.ids.shape[-1]
    starts = np.cumsum([0, *batch.lengths[:-1]]) if packing else width * np.arange(4)
    expected = [int(position - max(start for start in starts if start <= position)) for position in masked_N.tolist()]
    assert batch.targets_N.tolist() == expected  # ids count from the beginning of their document


def test_padding_is_neither_attended_nor_scored() -> None:
    (batch,) = step(replace(RECIPE, packing=False))
    assert batch.attention_BL is not None
    assert batch.attention_BL.sum(1).tolist() == list(batch.lengths)
    assert (batch.ids[batch.attention_BL == 0] == PAD).all()


def test_supervised_padding_is_attended_and_scored() -> None:
    micro = step(replace(RECIPE, packing=False, padding=EosPadding("supervised")), batch_size=2, accumulation=2)
    assert [batch.ids.shape for batch in micro] == [(2, 11), (2, 11)]  # of the whole batch, not of the micro-batch
    assert all(batch.attention_BL is None for batch in micro)
    assert any((batch.targets_N == EOS).any() for batch in micro)


def test_any_split_of_a_batch_has_the_same_tokens_and_weights() -> None:
    def scored(batches: list[TextMicroBatch]) -> list[tuple[int, float]]:
        pairs = [(int(t), float(w)) for b in batches for t, w in zip(b.targets_N, b.weights_N, strict=True)]
        return sorted(pairs)

    (full,) = step(step=5)
    assert scored(step(step=5, batch_size=1, accumulation=4)) == scored([full])
    ranks = [step(step=5, batch_size=1, accumulation=2, world_size=2, rank=rank) for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [2, 2]
    assert scored([*ranks[0], *ranks[1]]) == scored([full])


def test_a_step_does_not_depend_on_earlier_steps() -> None:
    """Resume: the batch of a step does not depend on what was drawn before."""
    before = [step(step=index) for index in range(4)][-1][0]
    (alone,) = step(step=3)
    assert alone.ids.equal(before.ids)
    assert alone.weights_N.equal(before.weights_N)


def test_each_epoch_draws_new_masks() -> None:
    first, second = (step(step=index)[0] for index in (0, 1))
    assert not first.ids.equal(second.ids)


def test_tokens_of_a_batch_are_counted_without_padding() -> None:
    plan = TextPlan(num_documents=4, batch_size=3, accumulation=1, world_size=1, seed=1)
    batches = [text_step_batch(DOCUMENTS, range(4), replace(RECIPE, packing=False), plan, index, 0) for index in (0, 1)]
    assert sum(batch.units for batch in batches) == sum(lengths(DOCUMENTS))
    assert [batch.epoch for batch in batches] == [0.5, 1.0]
