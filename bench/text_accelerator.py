"""Speed of text-diffusion training of full-size networks on an accelerator, compared with a large matrix product.

    python -m bench.text_accelerator [--rows llada-1024 llada-4096 modernbert] [--steps N] [--tiny]

Random weights of the real shapes, packed documents of equal length, half of the tokens masked on average, our training
step (objective, backward, clipping, AdamW). LLaDA 8B: bf16, LoRA r 32 on all linear layers, gradient checkpointing;
ModernBERT-large: all weights in fp32 under bf16 autocast. Achieved TFLOP/s count required operations: per weight and
token 2 + 2 for a frozen matrix and 2 + 4 for a trained one, attention within each document, the head at scored tokens;
recomputation by checkpointing is not counted. The ratio is to a large bf16 matrix product in the same run.
--tiny runs tiny networks, also on a CPU, to check that the program works; its numbers have no meaning.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM
from transformers.initialization import no_init_weights

from bench.image_accelerator import product_tflops
from bench.masked_text import recipe
from bench.measure import machine, table
from trainers.text.adaptors.lora import attach_text_lora
from trainers.text.data.batches import TextMicroBatch, TextPlan, text_step_batch
from trainers.text.data.chat import Encoded, Role
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.training.unmasking import Unmasking

HEADS = ("network", "documents x length", "tokens/s", "peak memory", "TFLOP/s", "of the matrix product", "target")


@dataclass(frozen=True)
class Row:
    title: str
    config: Any
    model_class: Any
    family: str
    lora: bool
    length: int
    documents: int
    target: float | None = 0.40


def llada(layers: int, width: int, inner: int, heads: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        tie_word_embeddings=False,
    )


def modernbert(layers: int, width: int, inner: int, heads: int, vocabulary: int) -> ModernBertConfig:
    return ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        cls_token_id=2,
        sep_token_id=1,
    )


LLADA_8B = llada(32, 4096, 12288, 32, 126_464)
MODERNBERT_LARGE = modernbert(28, 1024, 2624, 16, 50_368)
ROWS = {
    "llada-1024": Row("LLaDA 8B, LoRA r 32", LLADA_8B, LlamaForCausalLM, "llada", True, 1024, 8),
    "llada-4096": Row("LLaDA 8B, LoRA r 32", LLADA_8B, LlamaForCausalLM, "llada", True, 4096, 2),
    "modernbert": Row("ModernBERT-large, all", MODERNBERT_LARGE, ModernBertForMaskedLM, "modernbert", False, 1024, 32),
}
TINY_ROWS = {
    "llada": Row("tiny LLaDA, LoRA", llada(2, 64, 96, 2, 300), LlamaForCausalLM, "llada", True, 32, 2, None),
    "modernbert": Row(
        "tiny ModernBERT", modernbert(3, 64, 96, 2, 300), ModernBertForMaskedLM, "modernbert", False, 32, 2, None
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=sorted(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, default=10, help="measured steps per row")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to check that the program runs")
    args = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or args.tiny):
        print("nothing measured: no CUDA accelerator here; --tiny checks on the CPU that the program runs")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = list(TINY_ROWS.values()) if args.tiny else [ROWS[name] for name in args.rows]
    best = product_tflops(device, 256 if args.tiny else 8192)
    rows = [measured(row, device, args.steps, best) for row in chosen]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{machine()}\n{name}: {best:.0f} TFLOP/s in a bf16 matrix product\n\n{table(HEADS, rows)}")
    return 0


def measured(row: Row, device: torch.device, steps: int, best: float) -> tuple[str, ...]:
    shape = f"{row.documents} x {row.length}"
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step, base = training(row, device)
        rate = tokens_per_second(row, step, steps, device)
    except torch.cuda.OutOfMemoryError:
        return (row.title, shape, "out of memory", "", "", "", "")
    achieved = rate * operations_per_token(row, base) / 1e12
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
    target = "" if row.target is None else f"{row.target:.2f}" + (" (missed)" if achieved / best < row.target else "")
    return (row.title, shape, f"{rate:,.0f}", memory, f"{achieved:.1f}", f"{achieved / best:.2f}", target)


def training(row: Row, device: torch.device) -> tuple[Callable[[int], None], TextBase]:
    """A function that runs one optimizer step, and the base that it trains."""
    base = base_of(row, device)
    if row.lora:
        parameters = attach_text_lora(
            base, r=32, alpha=64, dropout=0.0, targets="all-linear", seed=1, train_mask_embedding=False
        )
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        parameters = list(base.model.requires_grad_(True).train().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    objective = Unmasking(base, device, torch.bfloat16, None)

    def step(index: int) -> None:
        objective(batch_of(row, base, index))[0].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, base


def base_of(row: Row, device: torch.device) -> TextBase:
    """A frozen base with random weights; fp32 if all weights are trained."""
    row.config.is_causal = False
    dtype = torch.bfloat16 if row.lora else torch.float32
    with no_init_weights(), device:
        model = row.model_class._from_config(row.config, dtype=dtype, attn_implementation=ATTENTION)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    last = row.config.vocab_size - 1
    return TextBase(row.family, model.requires_grad_(False).eval(), None, last, 1, 0, None, False, False, row.length)


def batch_of(row: Row, base: TextBase, step: int) -> TextMicroBatch:
    generator = np.random.default_rng(step)
    documents = [
        Encoded(
            generator.integers(3, base.mask_id, row.length).astype(np.int32),
            np.full(row.length, Role.RESPONSE, np.uint8),
        )
        for _ in range(row.documents)
    ]
    settings = replace(recipe(packing=True), mask_id=base.mask_id)
    plan = TextPlan(row.documents, row.documents, 1, 1, seed=1)
    step_batch = text_step_batch(documents, range(row.documents), settings, plan, step, 0)
    return step_batch.micro_batches[0]


def tokens_per_second(row: Row, step: Callable[[int], None], steps: int, device: torch.device) -> float:
    step(0)  # warms up
    _wait(device)
    started = time.perf_counter()
    for index in range(1, steps + 1):
        step(index)
    _wait(device)
    return steps * row.documents * row.length / (time.perf_counter() - started)


def operations_per_token(row: Row, base: TextBase) -> float:
    """Operations of forward and backward; half of the tokens go through the head."""
    config = row.config
    head = config.vocab_size * config.hidden_size
    linear = [m for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear) and "lora_" not in n]
    inner = sum(m.weight.numel() for m in linear) - head
    per_weight = 4 if row.lora else 6
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "local_attention", row.length)
    attended = sum(row.length if kind == "full_attention" else min(row.length, window) for kind in kinds)
    return per_weight * (inner + head / 2) + 12 * config.hidden_size * attended


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
