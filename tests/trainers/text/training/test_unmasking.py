"""The objective: packed equals padded, any split of a batch has one gradient, and a blank head scores log V."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from formats.datasets.chats import Turn
from tests.tolerance import GRADIENT, PRODUCT
from tests.trainers.text.data.test_batches import RECIPE
from trainers.core.distributed import Processes
from trainers.text.data.batches import GRID, Recipe, TextMicroBatch, TextPlan, text_step_batch
from trainers.text.data.chat import Encoded, Role, chat_tokenizer_of, encode_chat
from trainers.text.data.dataset import EosPadding, documents_of
from trainers.text.models.base import TextBase, logits
from trainers.text.models.load import load_text
from trainers.text.training.unmasking import Unmasking, validate

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
PADDINGS = ("block:8", "supervised", "masked", "single", "cap:3")
TEXTS = [("the cat", "on it"), ("in", "a much longer answer than that"), ("the", "one"), ("an on in", "three two")]


@pytest.fixture(scope="module")
def base_of(tiny_text: Callable[[str], Path]) -> Callable[[str], TextBase]:
    bases: dict[str, TextBase] = {}

    def make(family: str) -> TextBase:
        if family not in bases:
            bases[family] = load_text(tiny_text(family), torch.float32)
            bases[family].model.requires_grad_(True)
        return bases[family]

    return make


def recipe_for(base: TextBase, padding: str = "masked", **settings: object) -> Recipe:
    ids = {"mask_id": base.mask_id, "eos_id": base.eos_id, "pad_id": base.pad_id, "bos_id": base.bos_id}
    return replace(RECIPE, **ids, shift=base.shift, padding=EosPadding.parse(padding), **settings)  # type: ignore[arg-type]


def documents(base: TextBase, recipe: Recipe) -> list[Encoded]:
    rows = [
        encode_chat(chat_tokenizer_of(base), [Turn("user", q), Turn("assistant", a)], supervise_all=False)
        for q, a in TEXTS
    ]
    return documents_of(rows, max_length=120, truncation="right", padding=recipe.padding, eos_id=base.eos_id)[0]


def objective(base: TextBase, suppress: int | None = None, dtype: torch.dtype = torch.float32) -> Unmasking:
    return Unmasking(base, CPU, dtype, suppress)


def micro_batch(base: TextBase, recipe: Recipe) -> TextMicroBatch:
    """All documents in one micro-batch."""
    encoded = documents(base, recipe)
    plan = TextPlan(len(encoded), len(encoded), 1, 1, seed=1)
    (micro,) = text_step_batch(encoded, range(len(encoded)), recipe, plan, 3, 0).micro_batches
    return micro


def gradients(
    base: TextBase, recipe: Recipe, *, batch_size: int = 4, accumulation: int = 1, world_size: int = 1, step: int = 3
) -> tuple[float, Tensor]:
    """Loss and flat gradient of a step, summed over micro-batches and ranks as the loop and the all-reduce do."""
    encoded = documents(base, recipe)
    plan = TextPlan(len(encoded), batch_size, accumulation, world_size, seed=1)
    base.model.zero_grad()
    total = 0.0
    for rank in range(world_size):
        for micro in text_step_batch(encoded, range(len(encoded)), recipe, plan, step, rank).micro_batches:
            loss, _ = objective(base)(micro)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    grads = [p.grad for p in base.model.parameters() if p.grad is not None]
    return total, torch.cat([grad.reshape(-1) for grad in grads])


SPLITS = ((4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2))
CASES = [
    *((padding, False, 0.0) for padding in PADDINGS),
    *((padding, True, 1.0) for padding in PADDINGS),
    ("masked", True, 0.0),
    ("masked", False, 1.0),
]


@pytest.mark.parametrize(("padding", "cuts", "ratio"), CASES)
def test_any_accumulation_and_process_count_has_the_same_gradient(
    padding: str, cuts: bool, ratio: float, base_of: Callable[[str], TextBase]
) -> None:
    base = base_of("dream")
    recipe = recipe_for(base, padding, packing=padding != "supervised", cuts_per_batch=cuts, cut_ratio=ratio)
    result = [gradients(base, recipe, batch_size=b, accumulation=a, world_size=w) for b, a, w in SPLITS]
    for loss, gradient in result[1:]:
        assert loss == pytest.approx(result[0][0], rel=PRODUCT["rtol"])
        torch.testing.assert_close(gradient, result[0][1], **GRADIENT)


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
def test_packing_changes_neither_loss_nor_gradients(family: str, base_of: Callable[[str], TextBase]) -> None:
    base = base_of(family)
    weighting = {"weighting": "cart[geo_p:.3]", "geo_p": 0.3} if family == "dream" else {}
    recipe = recipe_for(base, "block:8", **weighting)
    packed, padded = (gradients(base, replace(recipe, packing=packing)) for packing in (True, False))
    assert packed[0] == pytest.approx(padded[0], rel=1e-5)
    torch.testing.assert_close(packed[1], padded[1], **GRADIENT)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_the_chunked_loss_equals_the_loss_of_all_logits(family: str, base_of: Callable[[str], TextBase]) -> None:
    """Dream: logits' = cat(logits[:1], logits[:-1]) of each document, then plain cross entropy."""
    base = base_of(family)
    recipe = recipe_for(base)
    encoded = documents(base, recipe)
    plan = TextPlan(len(encoded), 1, 4, 1, seed=1)
    for micro in text_step_batch(encoded, range(4), recipe, plan, 3, 0).micro_batches:
        hidden = base.model.model(input_ids=micro.ids[None], use_cache=False)[0][0]
        all_logits = logits(base, hidden)
        if base.shift:
            all_logits = torch.cat([all_logits[:1], all_logits[:-1]])
        masked = torch.nonzero(micro.ids == base.mask_id)[:, 0]
        nll = torch.nn.functional.cross_entropy(all_logits[masked], micro.targets_N, reduction="none")
        assert float(objective(base)(micro)[0]) == pytest.approx(float((nll * micro.weights_N).sum()), rel=1e-5)


@pytest.mark.parametrize("norm", ["token", "sequence", "batch"])
@pytest.mark.parametrize(("schedule", "mean"), [("linear", 1.0), ("cosine", (1 - math.cos(math.pi / 2 * 0.95)) / 0.95)])
def test_a_blank_head_scores_log_v_in_expectation(
    norm: str, schedule: str, mean: float, tiny_text: Callable[[str], Path]
) -> None:
    """`mean` is that of w p over [0.05, 1]; so large an epsilon keeps the spread of the mean small."""
    base = load_text(tiny_text("llada"), torch.float32)
    torch.nn.init.zeros_(base.model.lm_head.weight)
    recipe = recipe_for(base, norm=norm, schedule=schedule, epsilon=0.05)
    encoded = documents(base, recipe)
    plan = TextPlan(len(encoded), 4, 1, 1, seed=1)
    batches = [text_step_batch(encoded, range(4), recipe, plan, step, 0).micro_batches[0] for step in range(200)]
    with torch.no_grad():
        loss = float(objective(base)(batches[0])[0])
    assert loss == pytest.approx(math.log(base.vocab_size) * float(batches[0].weights_N.sum()), rel=1e-5)
    counts = [int((document.roles_L >= Role.RESPONSE).sum()) for document in encoded]
    expected = mean * (sum(counts) / len(counts) if norm == "batch" else 1.0)
    assert sum(float(batch.weights_N.sum()) for batch in batches) / 200 == pytest.approx(expected, rel=0.05)


def test_a_blank_head_reports_log_v_as_the_mean_of_its_masked_tokens(tiny_text: Callable[[str], Path]) -> None:
    base = load_text(tiny_text("llada"), torch.float32)
    torch.nn.init.zeros_(base.model.lm_head.weight)
    _, metrics = objective(base)(micro_batch(base, recipe_for(base, weighting="uniform", norm="batch")))
    assert float(metrics["masked_nll"]) == pytest.approx(math.log(base.vocab_size), rel=1e-5)
    assert not metrics["masked_nll"].requires_grad


def test_half_precision_computation_rounds_fp32_weights(base_of: Callable[[str], TextBase]) -> None:
    base = base_of("llada")
    micro = micro_batch(base, recipe_for(base))
    full, half = (float(objective(base, dtype=dtype)(micro)[0].detach()) for dtype in (torch.float32, torch.bfloat16))
    assert half == pytest.approx(full, rel=0.05)
    assert half != pytest.approx(full, rel=1e-6)


def test_a_prediction_records_no_graph(base_of: Callable[[str], TextBase]) -> None:
    base = base_of("llada")
    micro = micro_batch(base, recipe_for(base))
    recording: list[bool] = []
    hook = base.model.model.register_forward_pre_hook(lambda *_: recording.append(torch.is_grad_enabled()))
    predicted = objective(base).predicted(micro)
    hook.remove()
    assert recording == [False] and not predicted.nll_N.requires_grad
    weighted = float((predicted.nll_N * micro.weights_N).sum())
    assert weighted == pytest.approx(float(objective(base)(micro)[0].detach()), rel=PRODUCT["rtol"])


def test_an_objective_is_immutable(base_of: Callable[[str], TextBase]) -> None:
    with pytest.raises(FrozenInstanceError):
        objective(base_of("llada")).suppress = 1  # type: ignore[misc]


def test_a_suppressed_mask_token_is_never_part_of_the_softmax(base_of: Callable[[str], TextBase]) -> None:
    base = base_of("llada")
    recipe = recipe_for(base)
    encoded = documents(base, recipe)
    (micro,) = text_step_batch(encoded, range(4), recipe, TextPlan(4, 4, 1, 1, seed=1), 0, 0).micro_batches
    with torch.no_grad():
        free, suppressed = (float(objective(base, token)(micro)[0]) for token in (None, base.mask_id))
    assert suppressed < free


def test_validation_is_repeatable_and_independent_of_the_training_weighting(
    base_of: Callable[[str], TextBase],
) -> None:
    base = base_of("llada")
    recipe = recipe_for(base)
    encoded = documents(base, recipe)
    alone = Processes(0, 1, CPU)
    first = validate(objective(base), encoded, [0, 2], recipe, alone)
    assert validate(objective(base), encoded, [0, 2], recipe, alone) == first
    uniform = validate(objective(base), encoded, [0, 2], replace(recipe, weighting="uniform"), alone)
    assert uniform["nll"] == pytest.approx(first["nll"], rel=PRODUCT["rtol"])
    assert uniform["loss"] != pytest.approx(first["loss"], rel=1e-2)
    assert first["loss"] == pytest.approx(first["nll"], rel=1e-5)  # token norm and the scheduler's weight are the bound
    assert first["perplexity"] == pytest.approx(math.exp(first["nll"]))
    assert sum(name.startswith("accuracy/t=") for name in first) in range(1, GRID + 1)


def test_validation_of_a_blank_head_is_log_v(tiny_text: Callable[[str], Path]) -> None:
    base = load_text(tiny_text("llada"), torch.float32)
    torch.nn.init.zeros_(base.model.lm_head.weight)
    recipe = recipe_for(base, "block:8")
    encoded = documents(base, recipe) * 8
    result = validate(objective(base), encoded, range(len(encoded)), recipe, Processes(0, 1, CPU))
    assert result["nll"] == pytest.approx(math.log(base.vocab_size), rel=0.08)


def test_dropout_is_off_in_validation(tiny_text: Callable[[str], Path]) -> None:
    base = load_text(tiny_text("bert"), torch.float32)
    base.model.train()
    recipe = recipe_for(base)
    encoded = documents(base, recipe)
    result = [validate(objective(base), encoded, [1], recipe, Processes(0, 1, CPU)) for _ in range(2)]
    assert result[0] == result[1]
    assert base.model.training
