"""Method `evaluate_text`: likelihood of a dataset's answers under a model, and exact match of the model's answers."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.atomic import json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Sample, Started, Validation, Warning_
from trainers.contract.params.sample_text import EvaluateTextParams
from trainers.core.context import JobContext, Outcome
from trainers.core.noise import Purpose, stream
from trainers.text.data.chat import Encoded, Role, chat_tokenizer_of, encode_chat, encode_plain, prompt_ids, shift_begin
from trainers.text.data.rows import Dialogue, bad_rows, dialogues_of, rows_read, split_counts
from trainers.text.models.base import TextBase, head_features, head_weight, hidden_packed
from trainers.text.objective.linear_cross_entropy import linear_predicted
from trainers.text.sampling.texts import (
    DEFAULT_NEW_TOKENS,
    answer_decode,
    answers_sample,
    base_with_adaptors,
    decoding_of,
    suppressed_check,
)

# T tokens of all copies, N masked tokens, D width, L length, V vocabulary

REPORT = "samples/report.json"
Report = dict[str, Any]


def evaluate(job: JobContext[EvaluateTextParams]) -> Outcome:
    """Writes out/samples/report.json; the manifest repeats its summary: nll, perplexity bound, exact match."""
    params = job.params
    with base_with_adaptors(job) as base:
        suppressed_check(params, base)
        rows = rows_of(job, params)
        job.reporter.emit(Started(total=len(rows), details={"device": str(base.device)}))
        summary, details = _measure(job, base, params, rows)
        if job.control.stop_is_wanted():
            if command := job.control.agree():
                job.control.obeyed(command, 0)
            return "stopped"
        _report(job, summary, details)
        splits = split_counts(job.dataset, params.split_of)
        job.facts.update(steps=len(rows), evaluation=summary, **({"dataset": splits} if splits else {}))
        return "succeeded"


def rows_of(job: JobContext, params: EvaluateTextParams) -> list[Dialogue]:
    """The rows to evaluate. Raises TrainerError(BAD_DATASET) if exact match is requested for plain texts."""
    rows = rows_read(job.dataset, params.split_of)[: params.num_rows or None]
    dialogues = dialogues_of(rows, input_template=params.input_template, output_template=params.output_template)
    plain = next((row for row in dialogues if row.is_plain), None)
    if plain and params.measure != "likelihood":
        raise bad_rows(f"{plain.where}: plain text has no question to answer; choose measure='likelihood'")
    return dialogues


def encoded_row(base: TextBase, row: Dialogue) -> Encoded:
    """The row as training encodes it; with a shift a plain text begins with a token that is not scored."""
    chat_tokenizer = chat_tokenizer_of(base)
    if row.is_plain:
        encoded = encode_plain(chat_tokenizer, row.turns[0].text)
    else:
        encoded = encode_chat(chat_tokenizer, row.turns, supervise_all=False)
    begin = shift_begin(base, learned=row.is_plain)
    ids = np.concatenate([begin, encoded.ids_L]).astype(np.int32)
    return Encoded(ids, np.concatenate([[Role.SPECIAL] * len(begin), encoded.roles_L]).astype(np.uint8))


def _measure(
    job: JobContext, base: TextBase, params: EvaluateTextParams, rows: Sequence[Dialogue]
) -> tuple[Report, list[Report]]:
    summary: Report = {}
    details: list[Report] = [{"where": row.where} for row in rows]
    if params.measure in ("both", "likelihood"):
        summary |= _likelihood(job, base, params, rows, details)
    if params.measure in ("both", "exact_match"):
        summary |= _exact_match(job, base, params, rows, details)
    return summary, details


def _likelihood(
    job: JobContext, base: TextBase, params: EvaluateTextParams, rows: Sequence[Dialogue], details: list[Report]
) -> dict[str, float]:
    """nll per scored token, with its standard error for several noises. Skips rows that exceed the base's positions."""
    bounds, variances, tokens = [], [], []
    for index, row in enumerate(rows):
        if job.control.stop_is_wanted():
            break
        encoded = encoded_row(base, row)
        scored = encoded.roles_L == Role.RESPONSE
        if len(encoded.ids_L) > base.max_positions:
            details[index]["skipped"] = f"{len(encoded.ids_L)} tokens, the base model has {base.max_positions}"
            continue
        copies = noised(encoded.ids_L, scored, base.mask_id, copies=params.num_noises, seed=params.seed, row=index)
        values = np.array(likelihood_bound(base, encoded.ids_L, copies, batch_size=params.batch_size))
        bounds.append(values.mean())
        variances.append(values.var(ddof=1) / len(values) if len(values) > 1 else 0.0)
        tokens.append(int(scored.sum()))
        details[index] |= {"nll": float(bounds[-1]), "tokens": tokens[-1]}
        job.reporter.emit(Progress(stage="likelihood", done=index + 1, total=len(rows)))
    if not tokens:
        raise bad_rows(f"none of {len(rows)} rows fits into the base model's {base.max_positions} positions")
    nll = float(sum(bounds)) / sum(tokens)
    spread = {"nll_error": math.sqrt(float(sum(variances))) / sum(tokens)} if params.num_noises > 1 else {}
    return {
        "nll": nll,
        **spread,
        "perplexity_bound": math.exp(min(nll, 80.0)),
        "tokens": float(sum(tokens)),
        "rows_scored": float(len(tokens)),
    }


class Noised(NamedTuple):
    """A copy of a text with some of its scored tokens masked."""

    ids_L: NDArray[np.int64]
    masked: NDArray[np.int64]
    """Masked positions."""
    weight: float
    """n / l: weight of the masked tokens' summed nll."""


def noised(
    ids_L: NDArray[np.int32], scored_L: NDArray[np.bool_], mask_id: int, *, copies: int, seed: int, row: int
) -> list[Noised]:
    """`copies` of a text; copy k masks a share in [k, k + 1) / copies of the scored tokens, at least one."""
    places = np.flatnonzero(scored_L)
    noised_copies = []
    for k in range(copies):
        draws = stream(seed, Purpose.MASK, k, row)
        share = (k + draws.random()) / copies
        count = 1 + min(int(share * len(places)), len(places) - 1)
        masked = np.sort(draws.permutation(places)[:count])
        ids = ids_L.astype(np.int64)
        ids[masked] = mask_id
        noised_copies.append(Noised(ids, masked, len(places) / count))
    return noised_copies


@torch.no_grad()
def likelihood_bound(
    base: TextBase, ids_L: NDArray[np.int32], copies: Sequence[Noised], *, batch_size: int
) -> list[float]:
    """The bound for each copy, in nats for the complete text; their mean is the estimate by stratified Monte Carlo.

    -log p(x) <= E_l (n / l) sum over the l masked of -log p(x_i | the others), with l uniform in 1..n (Ou et al. 2025,
    "RADD", eq. 3.5; LLaDA, eq. 6). The same expectation as over times t with weight 1/t, with less variance. The
    softmax leaves out the mask token, as in sampling.
    """
    values: list[float] = []
    for first in range(0, len(copies), batch_size):
        values += _batch_bounds(base, ids_L, copies[first : first + batch_size])
    return values


def _batch_bounds(base: TextBase, ids_L: NDArray[np.int32], copies: Sequence[Noised]) -> list[float]:
    length = len(ids_L)
    ids_T = torch.from_numpy(np.concatenate([copy.ids_L for copy in copies]))
    hidden_TD = hidden_packed(base, ids_T.to(base.device), [length] * len(copies))
    read = [np.maximum(copy.masked - 1, 0) if base.shift else copy.masked for copy in copies]
    read_N = torch.from_numpy(np.concatenate([places + index * length for index, places in enumerate(read)]))
    targets_N = torch.from_numpy(np.concatenate([ids_L[copy.masked].astype(np.int64) for copy in copies]))
    features_ND = head_features(base, hidden_TD[read_N.to(base.device)])
    weight_VD, bias_V = head_weight(base)
    predicted = linear_predicted(features_ND, weight_VD, bias_V, targets_N.to(base.device), suppress=base.mask_id)
    parts = torch.split(predicted.nll_N.double().cpu(), [len(copy.masked) for copy in copies])
    return [copy.weight * float(part.sum()) for copy, part in zip(copies, parts, strict=True)]


def _exact_match(
    job: JobContext, base: TextBase, params: EvaluateTextParams, rows: Sequence[Dialogue], details: list[Report]
) -> dict[str, float]:
    room = base.max_positions - (params.max_new_tokens or DEFAULT_NEW_TOKENS)
    prompts = [prompt_ids(base, _messages(row)) for row in rows]
    fitting = [index for index, ids in enumerate(prompts) if len(ids) <= room]
    if not fitting:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"no prompt fits: the base model has {base.max_positions} positions; lower max_new_tokens",
        )
    if len(fitting) < len(rows):
        job.reporter.emit(Warning_(message=f"{len(rows) - len(fitting)} prompts have no room; they count as wrong"))
    correct = 0
    for first in range(0, len(fitting), params.batch_size):
        batch = fitting[first : first + params.batch_size]
        correct += _score_batch(job, base, params, rows, prompts, batch, details)
        job.reporter.emit(Progress(stage="answers", done=first + len(batch), total=len(fitting)))
        if job.control.stop_is_wanted():
            break
    return {"exact_match": correct / len(rows), "correct": float(correct), "rows_asked": float(len(rows))}


def _score_batch(
    job: JobContext,
    base: TextBase,
    params: EvaluateTextParams,
    rows: Sequence[Dialogue],
    prompts: Sequence[list[int]],
    batch: Sequence[int],
    details: list[Report],
) -> int:
    """Number of rows of `batch` that are answered exactly; adds the answers to `details`."""
    texts = answers_sample(
        base,
        [prompts[index] for index in batch],
        decoding_of(params),
        [params.seed + index for index in batch],
        should_stop=job.control.stop_is_wanted,
    )
    correct = 0
    for index, text in zip(batch, texts, strict=bool(texts)):
        expected = rows[index].turns[-1].text
        normalized = normalized_answer(base, expected)
        equal = normalized is not None and answers_equal(text.text, normalized, params.answer_format)
        correct += equal
        details[index] |= {"expected": expected, "given": text.text, "correct": equal, "steps": text.steps}
        if (number := final_number(text.text)) is not None:
            details[index]["number"] = number
    return correct


def normalized_answer(base: TextBase, text: str) -> str | None:
    """`text` as the model would write it after encoding and decoding, e.g. lower case for an uncased BERT.

    None if the tokenizer lacks a part of it, so that no answer can match.
    """
    ids = chat_tokenizer_of(base).text(text)
    return None if base.tokenizer.unk_token_id in ids else answer_decode(base, ids)


def _messages(row: Dialogue) -> list[dict[str, str]]:
    """The turns before the expected answer."""
    return [{"role": turn.role, "content": turn.text} for turn in row.turns[:-1]]


def _report(job: JobContext, summary: Report, details: list[Report]) -> None:
    json_write(job.out / REPORT, {"summary": summary, "rows": details})
    metrics = {name: float(value) for name, value in summary.items()}
    job.reporter.emit(Validation(step=len(details), metrics=metrics))
    job.reporter.emit(Sample(step=len(details), path=REPORT, label="report", details=summary))


AnswerFormat = Literal["auto", "gsm8k", "plain"]
NUMBER = re.compile(r"#\s*#\s*#\s*#\s*\$?\s*(-?\s*\.?\d+(?:\s*[.,]\s*\d+)*)")
"""Allows the spaces that BERT's tokenizer puts around punctuation."""


def answers_equal(answer: str, expected: str, form: AnswerFormat) -> bool:
    """gsm8k compares the numbers after the last ####, "1,000" as 1000.0; plain compares all but white space."""
    if form == "plain" or (form == "auto" and final_number(expected) is None):
        return answer.split() == expected.split()
    number = final_number(answer)
    return number is not None and number == final_number(expected)


def final_number(text: str) -> float | None:
    """The number after the last ####, the format of GSM8K's answers; None if there is none."""
    numbers = NUMBER.findall(text)
    if not numbers:
        return None
    try:
        return float(re.sub(r"[\s,]", "", numbers[-1]))
    except ValueError:
        return None
