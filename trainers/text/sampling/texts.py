"""Samples answers to prompts and fills masks in texts, for `sample_text`, `evaluate_text` and eval prompts.

`base_with_adaptors` and `decoding_of` set up the jobs of the first two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from foundation.atomic import json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.sample_text import DecodingParams
from trainers.core.context import JobContext
from trainers.core.distributed import single_process_check
from trainers.text.adaptors.lora import lora_remove, text_adaptors_apply
from trainers.text.data.chat import token_texts
from trainers.text.models.base import TextBase
from trainers.text.models.load import DTYPES, load_text
from trainers.text.sampling.decoding_rules import pick_dream, pick_llada, select_above, select_dream, select_evenly
from trainers.text.sampling.masked import (
    FROM_INPUT,
    Canvas,
    Logits,
    Pick,
    Select,
    cached_logits,
    canvas_of,
    denoise,
    guided_logits,
    plain_logits,
)

DEFAULT_NEW_TOKENS = 128


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


@contextmanager
def base_with_adaptors(job: JobContext[DecodingParams]) -> Iterator[TextBase]:
    """The job's base with every adaptor at its scale; removes the adaptors at the end, since the base is cached."""
    single_process_check(job.processes, job.spec.method)
    base = _base_of(job)
    before = base.shift, base.bos_first
    try:
        _adaptors_apply(job, base)
        if problem := job.params.shift_problem(base.shift):
            raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)
        yield base
    finally:
        lora_remove(base)
        base.shift, base.bos_first = before


def decoding_of(params: DecodingParams) -> Decoding:
    """Decoding parameters of the job, with defaults where `params` has none."""
    return Decoding(
        max_new_tokens=params.max_new_tokens or DEFAULT_NEW_TOKENS,
        steps=params.steps,
        block_size=params.block_size,
        remasking=params.remasking or "low_confidence",
        alg=params.alg or ("entropy" if params.threshold is None else "maskgit_plus"),
        temperature=params.temperature,
        cfg_scale=params.cfg_scale,
        suppress_tokens=params.suppress_tokens,
        alg_temp=params.alg_temp or 0.0,
        top_p=params.top_p or 1.0,
        top_k=params.top_k or 0,
        eps=params.eps or 1e-3,
        cache=params.cache,
        threshold=params.threshold,
    )


def suppressed_check(params: DecodingParams, base: TextBase) -> None:
    """Raises TrainerError(BAD_PARAMETERS) if a token of suppress_tokens does not exist, or if no token is left."""
    if unknown := [token for token in params.suppress_tokens if not 0 <= token < base.vocab_size]:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"suppress_tokens has {unknown[0]}, but the base model's tokens are 0 to {base.vocab_size - 1}",
        )
    if len({*params.suppress_tokens, base.mask_id}) >= base.vocab_size:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, "suppress_tokens leaves no token to choose")


def _base_of(job: JobContext[DecodingParams]) -> TextBase:
    model, params, device = job.spec.inputs.model, job.params, job.processes.device
    assert model is not None, "JobSpec requires a base model"
    dtype = DTYPES[params.dtype]

    def load() -> TextBase:
        return load_text(job.model, dtype, device, quantization="nf4" if params.load_in_4bit else "none")

    base: TextBase = job.models.get((model.sha256, dtype, params.load_in_4bit, device), load)
    return base


def _adaptors_apply(job: JobContext[DecodingParams], base: TextBase) -> None:
    inputs = job.spec.inputs
    assert inputs.model is not None
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    scales = job.params.adaptor_scales or (1.0,) * len(folders)
    text_adaptors_apply(base, inputs.model, inputs.adaptors, folders, scales)
