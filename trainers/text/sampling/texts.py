"""Texts from prompts, or with their masks filled in: what `sample_text`, `evaluate_text` and evaluations share."""

# B batch, L length, S columns, D width, V vocabulary

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from foundation.atomic import json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data.chat import token_texts
from trainers.text.models.attention import Cache
from trainers.text.models.base import TextBase, cache_fill, hidden_cached, hidden_padded, logits
from trainers.text.sampling.decoding_rules import above, pick_dream, pick_llada, select_dream, select_evenly
from trainers.text.sampling.masked import GIVEN, Canvas, Logits, Pick, Select, canvas_of, denoise


@dataclass(frozen=True)
class Decoding:
    """How masks become tokens. `alg`, `alg_temp`, `top_p`, `top_k`, `eps` are Dream's, `remasking` everyone else's."""

    max_new_tokens: int = 128
    steps: int | None = None
    """Shared out over the blocks; None: one for each mask."""
    block_size: int = 32
    """At least max_new_tokens: one block."""
    remasking: str = "low_confidence"
    alg: str = "entropy"
    temperature: float = 0.0
    cfg_scale: float = 0.0
    suppress_tokens: tuple[int, ...] = ()
    alg_temp: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    eps: float = 1e-3
    cache: Literal["none", "prefix", "dual"] = "none"
    threshold: float | None = None
    """Commit every token above this probability, at least one a step; None: as many as the schedule says."""


@dataclass(frozen=True)
class Text:
    """One text with how it came to be."""

    ids: tuple[int, ...]
    """All tokens: the prompt or the text around the masks, and what was put in; padding is gone."""
    trace: tuple[int, ...]
    """Step at which each position was committed, -1 where it was given."""
    answer_ids: tuple[int, ...]
    """What was put in after a prompt, up to the first end; of an infilled text everything."""
    text: str
    """`answer_ids` in letters, without special tokens."""
    steps: int
    """Steps that this text took."""


def answers_sample(
    base: TextBase, prompts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int], **watch: Any
) -> list[Text]:
    """An answer to each prompt, of any lengths, as one batch; prompt i from seeds[i]. Empty: broken off.

    `watch`: `on_step(ids_BL)` after each step, and `should_stop()`. TrainerError(BAD_PARAMETERS): no room.
    """
    masks = [base.mask_id] * decoding.max_new_tokens
    texts = [[*prompt, *masks] for prompt in prompts]
    filled = _fill(base, texts, decoding, seeds, **watch)
    return [
        _text(base, row, trace, answer=row[len(prompt) :])
        for (row, trace), prompt in zip(filled, prompts, strict=bool(filled))
    ]


def masks_fill(
    base: TextBase, texts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int], **watch: Any
) -> list[Text]:
    """Each text with its masks filled in; what is there stays. Empty: broken off."""
    filled = _fill(base, texts, decoding, seeds, **watch)
    return [_text(base, row, trace, answer=None) for row, trace in filled]


def answer_decode(base: TextBase, ids: Sequence[int]) -> str:
    """Ids in letters, without special tokens."""
    return str(base.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def ends_of(base: TextBase) -> frozenset[int]:
    """Tokens after which an answer is over."""
    names = ("<|eot_id|>", "<|im_end|>", "<|endoftext|>")
    vocabulary = base.tokenizer.get_vocab()
    return frozenset([base.eos_id, base.pad_id, *(vocabulary[name] for name in names if name in vocabulary)])


def rule_of(base: TextBase, decoding: Decoding) -> tuple[Pick, Select]:
    """How the base's family reads and commits tokens."""
    if base.shift:
        pick = pick_dream(decoding.alg, decoding.temperature, decoding.top_p, decoding.top_k)
        select = select_dream(decoding.alg, decoding.alg_temp, decoding.eps)
    else:
        pick, select = pick_llada(decoding.remasking, decoding.temperature), select_evenly
    return pick, select if decoding.threshold is None else above(decoding.threshold)


def logits_of(base: TextBase, canvas: Canvas, decoding: Decoding) -> Logits:
    """The logits function that `decoding` asks for: cached or not, guided or not."""
    guided = decoding.cfg_scale > 0
    seen_BL = canvas.seen_BL.repeat(2, 1) if guided else canvas.seen_BL
    ask = plain_logits(base, seen_BL) if decoding.cache == "none" else cached_logits(base, seen_BL, decoding.cache)
    if not guided:
        return ask
    given_BL = (canvas.ids_BL != base.mask_id) & canvas.seen_BL
    return guided_logits(ask, given_BL, mask_id=base.mask_id, scale=decoding.cfg_scale)


def _fill(
    base: TextBase,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int],
    on_step: Callable[[Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Ids and trace of each text; weights and train mode are left as they were."""
    longest = max(len(text) for text in texts)
    if longest > base.max_positions:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"prompt and max_new_tokens take {longest} positions, but the base model has {base.max_positions}",
        )
    canvas = canvas_of(texts, mask_id=base.mask_id, pad_id=base.pad_id).to(base.device)
    pick, select = rule_of(base, decoding)
    training = base.model.training
    base.model.eval()
    try:
        with torch.no_grad():
            done = denoise(
                canvas,
                logits_of(base, canvas, decoding),
                pick=pick,
                select=select,
                mask_id=base.mask_id,
                block_size=decoding.block_size,
                steps=decoding.steps,
                seeds=seeds,
                suppress=decoding.suppress_tokens,
                on_step=on_step,
                should_stop=should_stop,
            )
    finally:
        base.model.train(training)
    if not done.finished:
        return []
    sizes = [len(text) for text in texts]
    rows = zip(done.ids_BL.tolist(), done.trace_BL.tolist(), sizes, strict=True)
    return [(ids[:size], trace[:size]) for ids, trace, size in rows]


def _text(base: TextBase, row: list[int], trace: list[int], answer: list[int] | None) -> Text:
    kept = row if answer is None else _until_end(answer, ends_of(base))
    return Text(
        ids=tuple(row),
        trace=tuple(trace),
        answer_ids=tuple(kept),
        text=answer_decode(base, kept),
        steps=max(trace, default=GIVEN) + 1,
    )


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    return next((ids[:index] for index, token in enumerate(ids) if token in ends), ids)


def text_record(base: TextBase, text: Text, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`tokens` in order, each {id, text, step}; step is -1 for what was given. `mask` is how a gap is shown.

    The texts of the tokens joined are the whole text, special tokens included.
    """
    tokens = [
        {"id": token, "text": shown, "step": step}
        for token, shown, step in zip(text.ids, token_texts(base.tokenizer, text.ids), text.trace, strict=True)
    ]
    mask = str(base.tokenizer.convert_ids_to_tokens(base.mask_id))
    return {"text": text.text, "steps": text.steps, "mask": mask, "tokens": tokens, **facts}


def text_write(path: Path, base: TextBase, text: Text, facts: Mapping[str, Any]) -> None:
    json_write(path, text_record(base, text, facts))


def plain_logits(base: TextBase, seen_BL: Tensor) -> Logits:
    """Every step computes whole rows; the head only where it is asked."""

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:  # noqa: ARG001 - nothing is cached
        hidden_BLD = hidden_padded(base, ids_BL, seen_BL)
        return logits(base, _at(hidden_BLD, _heads(base, columns_BS)))

    return ask


def cached_logits(base: TextBase, seen_BL: Tensor, kind: Literal["prefix", "dual"]) -> Logits:
    """A block begins with whole rows; its further steps compute only some columns and see the others as they were.

    prefix: the block and all after it; dual: the block alone (Wu et al. 2025, "Fast-dLLM"). With Dream's shift the
    column before the block is computed too, since the logits of the first come from there.
    """
    held: dict[str, Cache] = {}
    last_B1 = seen_BL.sum(1, keepdim=True) - 1

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        heads_BS = _heads(base, columns_BS)
        if fresh:
            hidden_BLD, held["cache"] = cache_fill(base, ids_BL, seen_BL)
            return logits(base, _at(hidden_BLD, heads_BS))
        first_B1 = heads_BS[:, :1]
        stop_B1 = last_B1 if kind == "prefix" else columns_BS[:, -1:]
        width = int((stop_B1 - first_B1).max()) + 1
        active_BS = torch.minimum(first_B1 + torch.arange(width, device=ids_BL.device), stop_B1)
        hidden_BSD = hidden_cached(base, ids_BL.gather(1, active_BS), active_BS, held["cache"])
        return logits(base, _at(hidden_BSD, heads_BS - first_B1))

    return ask


def guided_logits(both: Logits, given_BL: Tensor, *, mask_id: int, scale: float) -> Logits:
    """Classifier-free guidance: u + (scale + 1)(c - u), where u does not see what was given (LLaDA).

    `both` answers for 2 B rows: those that see, then those that do not.
    """

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        blind_BL = ids_BL.masked_fill(given_BL, mask_id)
        answers = both(torch.cat([ids_BL, blind_BL]), torch.cat([columns_BS, columns_BS]), fresh)
        seeing, blind = answers.double().chunk(2)
        return blind + (scale + 1) * (seeing - blind)

    return ask


def _heads(base: TextBase, columns_BS: Tensor) -> Tensor:
    """Where the hidden states lie whose logits speak for `columns_BS`: one to the left under a shift, but for 0."""
    return (columns_BS - 1).clamp(min=0) if base.shift else columns_BS


def _at(hidden_BLD: Tensor, columns_BS: Tensor) -> Tensor:
    return hidden_BLD.gather(1, columns_BS[..., None].expand(-1, -1, hidden_BLD.shape[-1]))
