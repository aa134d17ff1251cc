"""Method `sample_text`: answers to prompts and chats, and texts whose gaps are filled, by denoising."""

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
from trainers.text.sampling.job import DEFAULT_NEW_TOKENS, base_with_adaptors, decoding_of, suppressed_check
from trainers.text.sampling.texts import Text, answers_sample, masks_fill, text_write


@dataclass(frozen=True)
class Asked:
    """One text to make."""

    number: int
    """From 0 through all of the job's texts."""
    prompt: Any
    """As it was given: a text, or a chat."""
    ids: list[int]
    seed: int


def sample(job: JobContext[SampleTextParams]) -> Outcome:
    """Writes out/samples/text-<n>.json for each text, with its trace, and tells of each."""
    params = job.params
    with base_with_adaptors(job) as base:
        suppressed_check(params, base)
        asked = asked_of(base, params)
        job.reporter.emit(Started(total=len(asked), details={"device": str(base.device)}))
        made = 0
        for batch in batches_of(asked, params):
            texts = _denoise(job, base, params, batch, made=made, total=len(asked))
            if not texts:
                if command := job.control.agree():
                    job.control.obeyed(command, made)
                break
            for one, text in zip(batch, texts, strict=True):
                _keep(job, base, params, one, text)
            made += len(texts)
        job.facts["steps"] = made
        return "succeeded" if made == len(asked) else "stopped"


def asked_of(base: TextBase, params: SampleTextParams) -> list[Asked]:
    """Every text of the job: each prompt `num_samples` times, text i from seed + i."""
    encoded = [(prompt, _encoded(base, params, prompt)) for prompt in params.asked for _ in range(params.num_samples)]
    return [Asked(number, prompt, ids, params.seed + number) for number, (prompt, ids) in enumerate(encoded)]


def batches_of(asked: Sequence[Asked], params: SampleTextParams) -> Iterator[list[Asked]]:
    for first in range(0, len(asked), params.batch_size):
        yield list(asked[first : first + params.batch_size])


def _encoded(base: TextBase, params: SampleTextParams, prompt: Any) -> list[int]:
    if params.infill_texts:
        return infill_ids(base, prompt)
    try:
        return prompt_ids(base, prompt)
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"messages: {error}") from error


def _denoise(
    job: JobContext, base: TextBase, params: SampleTextParams, batch: list[Asked], *, made: int, total: int
) -> list[Text]:
    ids, seeds = [one.ids for one in batch], [one.seed for one in batch]
    new = 0 if params.infill_texts else params.max_new_tokens or DEFAULT_NEW_TOKENS
    everything = sum(row.count(base.mask_id) + new for row in ids)

    def tell(ids_BL: Tensor) -> None:
        left = int((ids_BL == base.mask_id).sum())
        share = 1 - left / everything
        job.reporter.emit(Progress(stage="denoising", done=round((made + share * len(batch)) * 100), total=total * 100))

    watch = {"on_step": tell, "should_stop": job.control.stop_is_wanted}
    decoding = decoding_of(params)
    if params.infill_texts:
        return masks_fill(base, ids, decoding, seeds, **watch)
    return answers_sample(base, ids, decoding, seeds, **watch)


def _keep(job: JobContext, base: TextBase, params: SampleTextParams, asked: Asked, text: Text) -> None:
    path = f"samples/text-{asked.number + 1:04d}.json"
    model = job.spec.inputs.model
    assert model is not None
    facts = {
        "prompt": asked.prompt,
        "seed": asked.seed,
        "parameters": params.model_dump(mode="json"),
        "base_model": {"name": model.name, "sha256": model.sha256},
        "adaptors": adaptors_used(job, params),
    }
    text_write(job.out / path, base, text, facts)
    said = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[-1]["content"]
    job.reporter.emit(
        Sample(
            step=asked.number + 1,
            path=path,
            label=f"text {asked.number + 1}",
            prompt=said,
            seed=asked.seed,
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
"""How SentencePiece and byte-level BPE write a blank; some of their tokenizers put one before every text."""
ANCHOR = "\n"
"""Written before a text that goes on, and taken off again: no word is joined with it."""


def infill_ids(base: TextBase, text: str) -> list[int]:
    """Ids of a whole text, as a training on plain texts has it: begin where the family has one, and end."""
    chat_tokenizer = chat_tokenizer_of(base)
    ids = shift_begin(base, learned=True)
    if chat_tokenizer.begins_plain and chat_tokenizer.bos_id is not None:
        ids.append(chat_tokenizer.bos_id)
    write = _Writer(chat_tokenizer)
    last = 0
    for gap in GAP.finditer(text):
        before = text[last : gap.start()]
        ids += write(before.removesuffix(" ") if write.carries_space else before, begins=last == 0)
        ids += [base.mask_id] * int(gap[1] or 1)
        last = gap.end()
    ids += [*write(text[last:], begins=last == 0), chat_tokenizer.eos_id]
    if base.mask_id not in ids:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"expected [MASK] or [MASK:n] with n above 0 in {text[:60]!r}")
    return ids


class _Writer:
    """Ids of the texts between gaps, each as it stands in the whole: only what begins it gets a blank of its own."""

    def __init__(self, chat_tokenizer: ChatTokenizer) -> None:
        self._tongue = chat_tokenizer
        self._adds_space = _first_piece(chat_tokenizer, "a").startswith(BLANKS)
        bare, spaced = self("a", begins=False), self(" a", begins=False)
        self.carries_space = self._adds_space or (len(spaced) == len(bare) == 1 and spaced != bare)
        """Whether a space belongs to the token of the word after it, so that one before a gap is the gap's."""

    def __call__(self, text: str, *, begins: bool) -> list[int]:
        if begins or not text or not self._adds_space:
            return self._tongue.text(text)
        anchor = self._tongue.text(ANCHOR)
        ids = self._tongue.text(ANCHOR + text)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._tongue.text(text.removeprefix(" "))


def _first_piece(chat_tokenizer: ChatTokenizer, text: str) -> str:
    pieces = chat_tokenizer.tokenizer.convert_ids_to_tokens(chat_tokenizer.text(text))
    return str(pieces[0]) if pieces else ""
