"""Tokens per second of generate.py, plain, cached and threshold denoising, and the share of tokens that stays the same.

    python -m bench.sampling_text [--train-steps 400] [--new-tokens 64] [--rounds 3]

Trains a small LLaDA until it has learned a language: sentences of a full stop, a free word and the six words that
follow it. Then samples answers to four prompts with each decoding, as one batch. `generate.py` stands for the authors'
program: one prompt at a time, the complete row through network and head, noise and softmax of all its logits in fp64.
The head does a quarter of the network's work, as in Qwen3 0.6B. Right: full stops, and words that follow the one
before. CPU-seconds of this process with one thread, the fewest of the rounds.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from bench.measure import machine, table
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase, head_weight, hidden_padded, logits
from trainers.text.objective.linear_cross_entropy import linear_cross_entropy
from trainers.text.sampling.texts import Decoding, answers_sample

WORDS, LENGTH, BATCH = 16, 96, 16
SENTENCE = 8
VOCABULARY = 1310
STOP, END, MASK = range(WORDS, WORDS + 3)
BLOCK = 32
PROMPTS = (8, 16, 16, 24)
"""Tokens of each prompt."""
Ids = list[int]


class StubTokenizer:
    """A stub tokenizer; the bench only counts tokens."""

    def get_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, ids: Sequence[int], **_options: Any) -> str:
        return " ".join(map(str, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = counting_base(args.width)
    loss = train(base, args.train_steps)
    print(f"{machine()}\n{args.train_steps} training steps, last loss {loss:.3f}; {len(PROMPTS)} texts at once\n")
    samplers: dict[str, Sampler] = {"generate.py": lambda: generated(base, args.new_tokens)}
    for name, decoding in decodings(args.new_tokens).items():
        samplers[name] = lambda decoding=decoding: answered(base, decoding)  # type: ignore[misc]
    rows = rows_of(samplers, args.rounds)
    print(table(["denoising", "steps", "tokens/s", "against generate.py", "equal tokens", "right tokens"], rows))


def decodings(new_tokens: int) -> dict[str, Decoding]:
    plain = Decoding(max_new_tokens=new_tokens, block_size=BLOCK)
    return {
        "plain": plain,
        "prefix cache": replace(plain, cache="prefix"),
        "dual cache": replace(plain, cache="dual"),
        "threshold 0.9": replace(plain, threshold=0.9),
        "threshold 0.9, prefix cache": replace(plain, threshold=0.9, cache="prefix"),
        "threshold 0.9, dual cache": replace(plain, threshold=0.9, cache="dual"),
    }


def counting_base(width: int) -> TextBase:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=512,
        is_causal=False,
    )
    with no_init_weights():
        model: Any = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.03, generator=generator)
        else:
            parameter.data.fill_(1.0)
    return TextBase("llada", model, StubTokenizer(), MASK, END, END, None, False, False, 512)


def sentences(first_words: Sequence[int]) -> Ids:
    return [token for first in first_words for token in (STOP, *((first + n) % WORDS for n in range(SENTENCE - 1)))]


def share_right(answers: Sequence[Ids]) -> float:
    """Of tokens that the language determines: every full stop, and every word but the first of a sentence."""
    right = [
        token == STOP if place % SENTENCE == 0 else token == (answer[place - 1] + 1) % WORDS
        for answer in answers
        for place, token in enumerate(answer)
        if place % SENTENCE != 1
    ]
    return sum(right) / len(right)


def train(base: TextBase, steps: int) -> float:
    """Trains with the plain LLaDA loss on rows whose first sentence is never masked."""
    draws = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=3e-3, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(steps):
        words = torch.randint(WORDS, (BATCH, LENGTH // SENTENCE), generator=draws).tolist()
        ids_BL = torch.tensor([sentences(row) for row in words])
        times_B1 = torch.rand(BATCH, 1, generator=draws).clamp(min=0.05)
        masked_BL = torch.rand(ids_BL.shape, generator=draws) < times_B1
        masked_BL[:, :SENTENCE] = False
        hidden_BLD = hidden_padded(base, ids_BL.masked_fill(masked_BL, MASK))
        weight_VD, bias_V = head_weight(base)
        nll_N = linear_cross_entropy(hidden_BLD[masked_BL], weight_VD, bias_V, ids_BL[masked_BL])
        loss = (nll_N / times_B1.expand_as(masked_BL)[masked_BL]).sum() / ids_BL.numel()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(base.model.parameters(), 1.0)
        optimizer.step()
    base.model.requires_grad_(False).eval()
    return float(loss.detach())


def prompts() -> list[Ids]:
    return [sentences([(5 * row + n * n) % WORDS for n in range(size // SENTENCE)]) for row, size in enumerate(PROMPTS)]


@dataclass(frozen=True)
class Sampled:
    answers: list[Ids]
    steps: int
    """Of the answer that took most."""


Sampler = Callable[[], Sampled]


def answered(base: TextBase, decoding: Decoding) -> Sampled:
    texts = answers_sample(base, prompts(), decoding, range(len(PROMPTS)))
    answers = [list(text.ids[-decoding.max_new_tokens :]) for text in texts]
    return Sampled(answers, max(text.steps for text in texts))


@torch.no_grad()
def generated(base: TextBase, new_tokens: int) -> Sampled:
    """The algorithm of LLaDA's generate.py at temperature 0, without the mask token among the predictions."""
    answers = []
    for prompt in prompts():
        ids_1L = torch.tensor([[*prompt, *[MASK] * new_tokens]])
        for step in range(new_tokens):
            masked_1L = ids_1L == MASK
            logits_1LV = logits(base, hidden_padded(base, ids_1L))
            logits_1LV[..., MASK] = -torch.inf
            noise_1LV = (-torch.rand_like(logits_1LV, dtype=torch.float64).log()) ** 0.0
            tokens_1L = (logits_1LV.double().exp() / noise_1LV).argmax(-1)
            confidence_1L = logits_1LV.double().softmax(-1).gather(-1, tokens_1L[..., None])[..., 0]
            confidence_1L[:, len(prompt) + (step // BLOCK + 1) * BLOCK :] = -torch.inf
            column = confidence_1L.masked_fill(~masked_1L, -torch.inf)[0].topk(1).indices
            ids_1L[0, column] = tokens_1L[0, column]
        answers.append(ids_1L[0, len(prompt) :].tolist())
    return Sampled(answers, new_tokens)


def rows_of(samplers: Mapping[str, Sampler], rounds: int) -> list[tuple[str, ...]]:
    """The table; the samplers take turns, so that other work on the machine slows all of them."""
    results: dict[str, Sampled] = {}
    seconds: dict[str, float] = {}
    for _ in range(rounds):
        for name, sample in samplers.items():
            began = time.process_time()
            results[name] = sample()
            seconds[name] = min(time.process_time() - began, seconds.get(name, math.inf))
    first = next(iter(samplers))
    count = sum(len(answer) for answer in results[first].answers)
    return [
        (
            name,
            str(result.steps),
            f"{count / seconds[name]:.0f}",
            f"{seconds[first] / seconds[name]:.1f} x",
            f"{share(result.answers, results[first].answers):.1%}",
            f"{share_right(result.answers):.1%}",
        )
        for name, result in results.items()
    ]


def share(ours: Sequence[Ids], others: Sequence[Ids]) -> float:
    """Of equal tokens at equal places."""
    pairs = [(a, b) for x, y in zip(ours, others, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


if __name__ == "__main__":
    main()
