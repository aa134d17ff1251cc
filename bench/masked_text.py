"""Compares our step of text diffusion with a plain one: python -m bench.masked_text [--documents N] [--steps N].

The plain step pads to the longest document and computes all logits in fp32. Both use the same documents and masks, on
a LLaDA with the real vocabulary, random weights and GSM8K's lengths. Each runs in its own process with one thread;
measures CPU-seconds and peak memory. Then compares CART's weights at 4,096 tokens by recurrence and by matrix.
"""

# B documents, L length, V vocabulary

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.measure import machine, python, table
from trainers.text.adaptors.lora import attach_text_lora
from trainers.text.data.batches import Recipe, TextMicroBatch, TextPlan, text_step_batch
from trainers.text.data.chat import Encoded, Role
from trainers.text.data.dataset import EosPadding
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.objective.corruption import cart_weights
from trainers.text.training.unmasking import Unmasking

VOCABULARY, MASK, EOS = 126_464, 126_336, 126_081
ROWS = ((64, "full"), (512, "lora"))
CART_LENGTH = 4096
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=16, help="documents in a batch")
    parser.add_argument("--steps", type=int, default=2, help="measured steps, after a warm-up step")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "WIDTH", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        side, width, kind = args.measure
        print(json.dumps(measured(side, int(width), kind, args.documents, args.steps)))
        return 0
    print(machine())
    print(table(("step of", "plain", "ours", "target"), list(step_rows(args.documents, args.steps))))
    print(table(("CART weights", "matrix", "recurrence"), [cart_row()]))
    return 0


def step_rows(documents: int, steps: int) -> Any:
    for width, kind in ROWS:
        plain, ours = (_child(side, width, kind, documents, steps) for side in ("plain", "ours"))
        speed = ours["tokens_per_second"] / plain["tokens_per_second"]
        memory = ours["peak_mib"] / plain["peak_mib"]
        name = f"width {width}, {'LoRA r 32' if kind == 'lora' else 'all weights'}"
        rates = [f"{side['tokens_per_second']:.1f}" for side in (plain, ours)]
        yield f"{name}: tokens a CPU-second", rates[0], f"{rates[1]} ({speed:.1f}x)", ">= 4x"
        peaks = [f"{side['peak_mib']:,.0f} MiB" for side in (plain, ours)]
        yield f"{name}: peak memory", peaks[0], f"{peaks[1]} ({memory:.2f})", "<= 0.25"
        yield f"{name}: loss", f"{plain['loss']:.5f}", f"{ours['loss']:.5f}", "equal"


def _child(side: str, width: int, kind: str, documents: int, steps: int) -> dict[str, float]:
    sizes = ("--documents", str(documents), "--steps", str(steps))
    output = python("-m", "bench.masked_text", *sizes, "--measure", side, str(width), kind)
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def measured(side: str, width: int, kind: str, num_documents: int, steps: int) -> dict[str, float]:
    """Tokens (without padding) per CPU-second, peak memory of the process, and loss of the first step."""
    torch.set_num_threads(1)
    base = tiny_llada(width)
    parameters = (
        attach_text_lora(base, r=32, alpha=64, dropout=0.0, targets="all-linear", seed=1, train_mask_embedding=False)
        if kind == "lora"
        else list(base.model.requires_grad_(True).parameters())
    )
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    loss_of = Unmasking(base, torch.device("cpu"), torch.float32, None) if side == "ours" else plain_loss(base)
    losses, tokens, seconds = [], 0, 0.0
    for index in range(steps + 1):
        batch, count = batch_of(num_documents, index, packing=side == "ours")
        started = time.process_time()
        loss = loss_of(batch)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if index:
            seconds += time.process_time() - started
            tokens += count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    return {"tokens_per_second": tokens / seconds, "peak_mib": peak, "loss": losses[0]}


def tiny_llada(width: int) -> TextBase:
    """A LLaDA of two layers with the real vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=max(2, width // 64),
        num_key_value_heads=max(2, width // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    config.is_causal = False
    model = LlamaForCausalLM._from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
    return TextBase("llada", model.requires_grad_(False), None, MASK, EOS, EOS, None, False, False, 1024)


def batch_of(count: int, step: int, *, packing: bool) -> tuple[TextMicroBatch, int]:
    """A batch of documents with GSM8K's lengths (mean 66 prompt and 130 answer tokens), and its number of tokens."""
    generator = np.random.default_rng(step)
    prompts = np.clip(generator.normal(66, 24, count), 20, 250).astype(int)
    responses = np.clip(np.exp(generator.normal(np.log(115), 0.5, count)), 25, 450).astype(int)
    documents = [
        Encoded(
            generator.integers(0, EOS, p + r).astype(np.int32),
            np.array([Role.PROMPT] * p + [Role.RESPONSE] * r, np.uint8),
        )
        for p, r in zip(prompts, responses, strict=True)
    ]
    step_batch = text_step_batch(
        documents, range(count), recipe(packing=packing), TextPlan(count, count, 1, 1, seed=1), 0, 0
    )
    return step_batch.micro_batches[0], step_batch.units


def recipe(*, packing: bool) -> Recipe:
    return Recipe(
        seed=1,
        mask_id=MASK,
        eos_id=EOS,
        pad_id=EOS,
        bos_id=None,
        shift=False,
        packing=packing,
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


def plain_loss(base: TextBase) -> Callable[[TextMicroBatch], tuple[torch.Tensor, None]]:
    """The usual way: fp32 logits of every position, rows padded to the longest."""

    def loss(batch: TextMicroBatch) -> tuple[torch.Tensor, None]:
        assert batch.attention_BL is not None
        mask = batch.attention_BL.bool()[:, None, None, :]
        logits_BLV = base.model(input_ids=batch.ids, attention_mask=mask, use_cache=False).logits.float()
        targets, weights = torch.full(batch.ids.shape, -100).flatten(), torch.zeros(batch.ids.numel())
        targets[batch.read_N], weights[batch.read_N] = batch.targets_N, batch.weights_N
        nll = torch.nn.functional.cross_entropy(logits_BLV.flatten(0, 1), targets, reduction="none")
        return (nll * weights).sum(), None

    return loss


def cart_row() -> tuple[str, str, str]:
    """Minimum milliseconds for one document; checks that the weights are equal."""
    masked_L = np.random.default_rng(1).random(CART_LENGTH) < 0.5
    matrix, recurrence = (_milliseconds(f, masked_L) for f in (cart_matrix, cart_weights))
    assert np.allclose(cart_matrix(masked_L, 0.3), cart_weights(masked_L, 0.3))
    return f"{CART_LENGTH:,} tokens", f"{matrix:.1f} ms", f"{recurrence:.2f} ms ({matrix / recurrence:.0f}x)"


def cart_matrix(masked_L: np.ndarray[Any, Any], geo_p: float) -> np.ndarray[Any, Any]:
    """The definition: w = 1/2 K n with K_ij = P (1-P)^(|i-j|-1)."""
    index_L = np.arange(len(masked_L))
    distance_LL = np.abs(index_L[:, None] - index_L[None])
    kernel_LL = np.where(distance_LL > 0, geo_p * (1 - geo_p) ** np.maximum(distance_LL - 1, 0), 0.0)
    weights: np.ndarray[Any, Any] = np.where(masked_L, 0.5 * kernel_LL @ ~masked_L, 0.0)
    return weights


def _milliseconds(function: Callable[..., Any], masked_L: np.ndarray[Any, Any]) -> float:
    def once() -> float:
        started = time.process_time()
        function(masked_L, 0.3)
        return time.process_time() - started

    return 1000 * min(once() for _ in range(5))


if __name__ == "__main__":
    sys.exit(main())
