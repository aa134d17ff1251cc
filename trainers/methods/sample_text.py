"""Method `sample_text`: answers prompts and chats, and fills gaps in texts, by denoising."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Sample, Started
from trainers.contract.params.sample_text import SampleTextParams
from trainers.core.context import JobContext, Outcome
from trainers.text.data.chat import ChatTokenizer, chat_tokenizer_of, prompt_ids, shift_begin
from trainers.text.models.base import TextBase
from trainers.text.sampling.texts import (
    DEFAULT_NEW_TOKENS,
    Text,
    answers_sample,
    base_with_adaptors,
    decoding_of,
    masks_fill,
    suppressed_check,
    text_write,
)


@dataclass(frozen=True)
class SampleRequest:
    """One text to sample."""

    number: int
    """Index among the job's texts, from 0."""
    prompt: Any
    """A text or a chat, as in the parameters."""
    ids: list[int]
    seed: int


def sample(job: JobContext[SampleTextParams]) -> Outcome:
    """Writes each text with its trace to out/samples/text-<n>.json and emits a Sample event."""
    params = job.params
    with base_with_adaptors(job) as base:
        suppressed_check(params, base)
        requests = requests_of(base, params)
        job.reporter.emit(Started(total=len(requests), details={"device": str(base.device)}))
        done = 0
        for batch in batches_of(requests, params):
            texts = _denoise(job, base, params, batch, done=done, total=len(requests))
            if not texts:
                if command := job.control.agree():
                    job.control.obeyed(command, done)
                break
            for request, text in zip(batch, texts, strict=True):
                _sample_write(job, base, params, request, text)
            done += len(texts)
        job.facts["steps"] = done
        return "succeeded" if done == len(requests) else "stopped"


def requests_of(base: TextBase, params: SampleTextParams) -> list[SampleRequest]:
    """Every text of the job: each prompt `num_samples` times, text i with seed + i."""
    encoded = [
        (prompt, _encoded(base, params, prompt)) for prompt in params.requests for _ in range(params.num_samples)
    ]
    return [SampleRequest(number, prompt, ids, params.seed + number) for number, (prompt, ids) in enumerate(encoded)]


def batches_of(requests: Sequence[SampleRequest], params: SampleTextParams) -> Iterator[list[SampleRequest]]:
    for first in range(0, len(requests), params.batch_size):
        yield list(requests[first : first + params.batch_size])


def _encoded(base: TextBase, params: SampleTextParams, prompt: Any) -> list[int]:
    if params.infill_texts:
        return infill_ids(base, prompt)
    try:
        return prompt_ids(base, prompt)
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"messages: {error}") from error


def _denoise(
    job: JobContext, base: TextBase, params: SampleTextParams, batch: list[SampleRequest], *, done: int, total: int
) -> list[Text]:
    ids, seeds = [request.ids for request in batch], [request.seed for request in batch]
    new_tokens = 0 if params.infill_texts else params.max_new_tokens or DEFAULT_NEW_TOKENS
    num_masks = sum(row.count(base.mask_id) + new_tokens for row in ids)

    def report(ids_BL: Tensor) -> None:
        share = 1 - int((ids_BL == base.mask_id).sum()) / num_masks
        job.reporter.emit(Progress(stage="denoising", done=round((done + share * len(batch)) * 100), total=total * 100))

    callbacks = {"on_step": report, "should_stop": job.control.stop_is_wanted}
    decoding = decoding_of(params)
    if params.infill_texts:
        return masks_fill(base, ids, decoding, seeds, **callbacks)
    return answers_sample(base, ids, decoding, seeds, **callbacks)


def _sample_write(
    job: JobContext, base: TextBase, params: SampleTextParams, request: SampleRequest, text: Text
) -> None:
    path = f"samples/text-{request.number + 1:04d}.json"
    model = job.spec.inputs.model
    assert model is not None
    facts = {
        "prompt": request.prompt,
        "seed": request.seed,
        "parameters": params.model_dump(mode="json"),
        "base_model": {"name": model.name, "sha256": model.sha256},
        "adaptors": adaptors_used(job, params),
    }
    text_write(job.out / path, base, text, facts)
    prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]
    job.reporter.emit(
        Sample(
            step=request.number + 1,
            path=path,
            label=f"text {request.number + 1}",
            prompt=prompt,
            seed=request.seed,
            details={"text": text.text, "steps": text.steps},
        )
    )


def adaptors_used(job: JobContext, params: SampleTextParams) -> list[dict[str, Any]]:
    adaptors = job.spec.inputs.adaptors
    scales = params.adaptor_scales or (1.0,) * len(adaptors)
    return [
        {"name": adaptor.name, "sha256": adaptor.sha256, "scale": scale}
        for adaptor, scale in zip(adaptors, scales, strict=True)
    ]


GAP = re.compile(r"\[MASK(?::(\d{1,4}))?\]")
BLANKS = ("\u2581", "\u0120")
"""How SentencePiece and byte-level BPE write a space; some of their tokenizers prepend one to every text."""
ANCHOR = "\n"
"""Prepended to a text in mid-sentence before tokenizing and removed after it; it never merges with a word."""


def infill_ids(base: TextBase, text: str) -> list[int]:
    """Ids of a text with gaps, encoded like a plain text in training: with the family's begin and end tokens.

    [MASK] is one mask, [MASK:5] five. Raises TrainerError(BAD_PARAMETERS) if there is no gap.
    """
    chat_tokenizer = chat_tokenizer_of(base)
    ids = shift_begin(base, learned=True)
    if chat_tokenizer.begins_plain and chat_tokenizer.bos_id is not None:
        ids.append(chat_tokenizer.bos_id)
    encode = _PieceEncoder(chat_tokenizer)
    last = 0
    for gap in GAP.finditer(text):
        before = text[last : gap.start()]
        ids += encode(before.removesuffix(" ") if encode.carries_space else before, begins=last == 0)
        ids += [base.mask_id] * int(gap[1] or 1)
        last = gap.end()
    ids += [*encode(text[last:], begins=last == 0), chat_tokenizer.eos_id]
    if base.mask_id not in ids:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"expected [MASK] or [MASK:n] with n above 0 in {text[:60]!r}")
    return ids


class _PieceEncoder:
    """Encodes the texts between gaps as parts of one text: only the first may get the tokenizer's leading space."""

    def __init__(self, chat_tokenizer: ChatTokenizer) -> None:
        self._chat_tokenizer = chat_tokenizer
        self._adds_space = _first_piece(chat_tokenizer, "a").startswith(BLANKS)
        bare, spaced = self("a", begins=False), self(" a", begins=False)
        self.carries_space = self._adds_space or (len(spaced) == len(bare) == 1 and spaced != bare)
        """Whether a space is part of the next word's token, so that a space before a gap belongs to the gap."""

    def __call__(self, text: str, *, begins: bool) -> list[int]:
        if begins or not text or not self._adds_space:
            return self._chat_tokenizer.text(text)
        anchor = self._chat_tokenizer.text(ANCHOR)
        ids = self._chat_tokenizer.text(ANCHOR + text)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._chat_tokenizer.text(text.removeprefix(" "))


def _first_piece(chat_tokenizer: ChatTokenizer, text: str) -> str:
    pieces = chat_tokenizer.tokenizer.convert_ids_to_tokens(chat_tokenizer.text(text))
    return str(pieces[0]) if pieces else ""
