"""Samples answers to prompts and fills masks in texts, for `sample_text`, `evaluate_text` and eval prompts."""

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
from trainers.text.sampling.decoding_rules import pick_dream, pick_llada, select_above, select_dream, select_evenly
from trainers.text.sampling.masked import FROM_INPUT, Canvas, Logits, Pick, Select, canvas_of, denoise


@dataclass(frozen=True)
class Decoding:
    """Decoding parameters. `alg`, `alg_temp`, `top_p`, `top_k` and `eps` apply to Dream, `remasking` to the others."""

    max_new_tokens: int = 128
    steps: int | None = None
    """Divided over the blocks; None: one per mask."""
    block_size: int = 32
    """A value of max_new_tokens or more gives one block."""
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
    """Commits every token above this probability, at least one per step; None: the schedule sets the number."""


@dataclass(frozen=True)
class Text:
    """A denoised text with its trace."""

    ids: tuple[int, ...]
    """All tokens without padding, the prompt included."""
    trace: tuple[int, ...]
    """Step at which each position was committed; -1 where the input had it."""
    answer_ids: tuple[int, ...]
    """The tokens after the prompt up to the first end token; all tokens of an infilled text."""
    text: str
    """`answer_ids` decoded without special tokens."""
    steps: int
    """Number of denoising steps."""


def answers_sample(
    base: TextBase, prompts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int], **callbacks: Any
) -> list[Text]:
    """Answers prompts of any lengths as one batch, prompt i with seeds[i]. Returns [] when stopped early.

    `callbacks`: `on_step(ids_BL)`, called after each step, and `should_stop()`. Raises TrainerError(BAD_PARAMETERS) if
    a prompt with its answer exceeds the positions of the base model.
    """
    masks = [base.mask_id] * decoding.max_new_tokens
    texts = [[*prompt, *masks] for prompt in prompts]
    filled = _fill(base, texts, decoding, seeds, **callbacks)
    return [
        _text(base, row, trace, answer=row[len(prompt) :])
        for (row, trace), prompt in zip(filled, prompts, strict=bool(filled))
    ]


def masks_fill(
    base: TextBase, texts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int], **callbacks: Any
) -> list[Text]:
    """Fills the masks of each text. Returns [] when stopped early."""
    filled = _fill(base, texts, decoding, seeds, **callbacks)
    return [_text(base, row, trace, answer=None) for row, trace in filled]


def answer_decode(base: TextBase, ids: Sequence[int]) -> str:
    """Decodes ids without special tokens."""
    return str(base.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def end_tokens(base: TextBase) -> frozenset[int]:
    """Tokens that end an answer."""
    names = ("<|eot_id|>", "<|im_end|>", "<|endoftext|>")
    vocabulary = base.tokenizer.get_vocab()
    return frozenset([base.eos_id, base.pad_id, *(vocabulary[name] for name in names if name in vocabulary)])


def rules_of(base: TextBase, decoding: Decoding) -> tuple[Pick, Select]:
    """The decoding rules of the base's family."""
    if base.shift:
        pick = pick_dream(decoding.alg, decoding.temperature, decoding.top_p, decoding.top_k)
        select = select_dream(decoding.alg, decoding.alg_temp, decoding.eps)
    else:
        pick, select = pick_llada(decoding.remasking, decoding.temperature), select_evenly
    return pick, select if decoding.threshold is None else select_above(decoding.threshold)


def logits_function(base: TextBase, canvas: Canvas, decoding: Decoding) -> Logits:
    """The logits function for `decoding`, with or without cache and guidance."""
    guided = decoding.cfg_scale > 0
    attention_BL = canvas.attention_BL.repeat(2, 1) if guided else canvas.attention_BL
    if decoding.cache == "none":
        compute = plain_logits(base, attention_BL)
    else:
        compute = cached_logits(base, attention_BL, decoding.cache)
    if not guided:
        return compute
    input_BL = (canvas.ids_BL != base.mask_id) & canvas.attention_BL
    return guided_logits(compute, input_BL, mask_id=base.mask_id, scale=decoding.cfg_scale)


def _fill(
    base: TextBase,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int],
    on_step: Callable[[Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Ids and trace of each text. Restores the model's train mode."""
    max_length = max(len(text) for text in texts)
    if max_length > base.max_positions:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"prompt and max_new_tokens take {max_length} positions, but the base model has {base.max_positions}",
        )
    canvas = canvas_of(texts, mask_id=base.mask_id, pad_id=base.pad_id).to(base.device)
    pick, select = rules_of(base, decoding)
    training = base.model.training
    base.model.eval()
    try:
        with torch.no_grad():
            result = denoise(
                canvas,
                logits_function(base, canvas, decoding),
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
    if not result.finished:
        return []
    sizes = [len(text) for text in texts]
    rows = zip(result.ids_BL.tolist(), result.trace_BL.tolist(), sizes, strict=True)
    return [(ids[:size], trace[:size]) for ids, trace, size in rows]


def _text(base: TextBase, row: list[int], trace: list[int], answer: list[int] | None) -> Text:
    answer_ids = row if answer is None else _until_end(answer, end_tokens(base))
    return Text(
        ids=tuple(row),
        trace=tuple(trace),
        answer_ids=tuple(answer_ids),
        text=answer_decode(base, answer_ids),
        steps=max(trace, default=FROM_INPUT) + 1,
    )


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    return next((ids[:index] for index, token in enumerate(ids) if token in ends), ids)


def text_record(base: TextBase, text: Text, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a text: `tokens` in order, each {id, text, step}, with step -1 for tokens of the input; `mask` is
    the text of the mask token. The joined texts of the tokens are the complete text, special tokens included.
    """
    tokens = [
        {"id": token, "text": token_text, "step": step}
        for token, token_text, step in zip(text.ids, token_texts(base.tokenizer, text.ids), text.trace, strict=True)
    ]
    mask = str(base.tokenizer.convert_ids_to_tokens(base.mask_id))
    return {"text": text.text, "steps": text.steps, "mask": mask, "tokens": tokens, **facts}


def text_write(path: Path, base: TextBase, text: Text, facts: Mapping[str, Any]) -> None:
    json_write(path, text_record(base, text, facts))


def plain_logits(base: TextBase, attention_BL: Tensor) -> Logits:
    """Every step computes complete rows; the head only computes `columns_BS`."""

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:  # noqa: ARG001 - nothing is cached
        hidden_BLD = hidden_padded(base, ids_BL, attention_BL)
        return logits(base, _at(hidden_BLD, _heads(base, columns_BS)))

    return compute


def cached_logits(base: TextBase, attention_BL: Tensor, kind: Literal["prefix", "dual"]) -> Logits:
    """The first step of a block computes complete rows; later steps compute some columns and cache the rest.

    prefix: computes the block and everything after it; dual: only the block (Wu et al. 2025, "Fast-dLLM"). With Dream's
    shift also the column before the block, which predicts the block's first token.
    """
    caches: dict[str, Cache] = {}
    last_B1 = attention_BL.sum(1, keepdim=True) - 1

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        heads_BS = _heads(base, columns_BS)
        if fresh:
            hidden_BLD, caches["cache"] = cache_fill(base, ids_BL, attention_BL)
            return logits(base, _at(hidden_BLD, heads_BS))
        first_B1 = heads_BS[:, :1]
        stop_B1 = last_B1 if kind == "prefix" else columns_BS[:, -1:]
        width = int((stop_B1 - first_B1).max()) + 1
        active_BS = torch.minimum(first_B1 + torch.arange(width, device=ids_BL.device), stop_B1)
        hidden_BSD = hidden_cached(base, ids_BL.gather(1, active_BS), active_BS, caches["cache"])
        return logits(base, _at(hidden_BSD, heads_BS - first_B1))

    return compute


def guided_logits(both: Logits, input_BL: Tensor, *, mask_id: int, scale: float) -> Logits:
    """Classifier-free guidance: u + (scale + 1)(c - u), where u is computed with the input tokens masked (LLaDA).

    `both` computes 2 B rows: the conditional ones, then the unconditional ones.
    """

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        unconditional_BL = ids_BL.masked_fill(input_BL, mask_id)
        logits_BSV = both(torch.cat([ids_BL, unconditional_BL]), torch.cat([columns_BS, columns_BS]), fresh)
        conditional, unconditional = logits_BSV.double().chunk(2)
        return unconditional + (scale + 1) * (conditional - unconditional)

    return compute


def _heads(base: TextBase, columns_BS: Tensor) -> Tensor:
    """Columns of the hidden states that predict `columns_BS`: with a shift one to the left, except column 0."""
    return (columns_BS - 1).clamp(min=0) if base.shift else columns_BS


def _at(hidden_BLD: Tensor, columns_BS: Tensor) -> Tensor:
    return hidden_BLD.gather(1, columns_BS[..., None].expand(-1, -1, hidden_BLD.shape[-1]))
