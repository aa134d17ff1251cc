"""Tokens per second of plain, cached and threshold denoising, and the share of tokens that stays the same.

    python -m bench.sampling_text [--train-steps 200] [--new-tokens 64]

Trains a small LLaDA on counting, so that it is confident of some tokens; then samples answers to four prompts of
different lengths as one batch with each decoding. CPU-seconds of this process with one thread.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from bench.measure import machine, table
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase, head_weight, hidden_padded
from trainers.text.objective.linear_cross_entropy import linear_cross_entropy
from trainers.text.sampling.texts import Decoding, Text, answers_sample

WORDS, LENGTH, BATCH = 16, 96, 16
END, MASK = WORDS, WORDS + 1
PROMPTS = (8, 12, 16, 24)
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
    parser.add_argument("--train-steps", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = counting_base(args.width)
    loss = train(base, args.train_steps)
    print(f"{machine()}\n{args.train_steps} training steps, last loss {loss:.3f}; {len(PROMPTS)} texts at once\n")
    by_name = decodings(args.new_tokens)
    plain, _ = timed(base, by_name["plain"])
    rows = [row_of(name, base, way, plain) for name, way in by_name.items()]
    print(table(["denoising", "forwards", "tokens/s", "against plain", "equal tokens", "right tokens"], faster(rows)))


def decodings(new_tokens: int) -> dict[str, Decoding]:
    plain = Decoding(max_new_tokens=new_tokens, block_size=32)
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
        vocab_size=WORDS + 2,
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


def counted(start: int, stride: int, length: int) -> Ids:
    """start, start + stride, ... modulo WORDS: two neighbours determine the rest."""
    return [(start + stride * place) % WORDS for place in range(length)]


def train(base: TextBase, steps: int) -> float:
    """Trains with the plain LLaDA loss on rows with strides 1 and 2; their first 8 tokens are never masked."""
    draws = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=3e-3, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(steps):
        starts = torch.randint(WORDS, (BATCH,), generator=draws).tolist()
        strides = torch.randint(1, 3, (BATCH,), generator=draws).tolist()
        ids_BL = torch.tensor([counted(*row, LENGTH) for row in zip(starts, strides, strict=True)])
        times_B1 = torch.rand(BATCH, 1, generator=draws).clamp(min=0.05)
        masked_BL = torch.rand(ids_BL.shape, generator=draws) < times_B1
        masked_BL[:, :8] = False
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


def timed(base: TextBase, way: Decoding) -> tuple[list[Text], float]:
    prompts = [counted(7 * row, 1 + row % 2, length) for row, length in enumerate(PROMPTS)]
    began = time.process_time()
    texts = answers_sample(base, prompts, way, range(len(prompts)))
    return texts, time.process_time() - began


def row_of(name: str, base: TextBase, way: Decoding, plain: list[Text]) -> tuple[str, int, float, float, float]:
    texts, seconds = timed(base, way)
    count = way.max_new_tokens
    new = [text.ids[-count:] for text in texts]
    expected = [counted(7 * row, 1 + row % 2, length + count)[-count:] for row, length in enumerate(PROMPTS)]
    return (
        name,
        max(text.steps for text in texts),
        count * len(texts) / seconds,
        share(new, [text.ids[-count:] for text in plain]),
        share(new, expected),
    )


def share(ours: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    pairs = [(a, b) for x, y in zip(ours, others, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def faster(rows: Sequence[tuple[str, int, float, float, float]]) -> list[tuple[str, ...]]:
    first = rows[0][2]
    return [
        (name, str(forwards), f"{speed:.0f}", f"{speed / first:.1f} x", f"{equal:.1%}", f"{right:.1%}")
        for name, forwards, speed, equal, right in rows
    ]


if __name__ == "__main__":
    main()
