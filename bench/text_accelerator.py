"""Speed of text-diffusion training of full-size networks on an accelerator, compared with a large matrix product.

    python -m bench.text_accelerator [--rows llada-1024 llada-4096 modernbert] [--steps N] [--tiny]

Random weights of the real shapes, packed documents of equal length, half of the tokens masked on average, in the real
loop (`trainers.core.loop.fit`) with batches drawn a step ahead. LLaDA 8B: bf16, LoRA r 32 on all linear layers and
gradient checkpointing; ModernBERT-large: all weights in fp32 under bf16 autocast. Achieved TFLOP/s count required
operations: per weight and token 2 + 2 for a frozen matrix and 2 + 4 for a trained one, attention within each document,
the head at scored tokens; recomputation by checkpointing is not counted. The ratio is to a large bf16 matrix product in
the same run. A row that exceeds its time budget says so.
--tiny runs tiny networks, also on a CPU, to check that the program works; its numbers have no meaning.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM
from transformers.initialization import no_init_weights

from bench.loop_steps import NEVER, loop_run
from bench.masked_text import recipe
from bench.rows import (
    Measuring,
    RowWriter,
    device_here,
    header,
    memory_text,
    product_tflops,
    row_or_problem,
    units_per_second,
)
from trainers.core.loop import TrainingPlan
from trainers.core.optim import Group, optimizer_of, schedule
from trainers.text.adaptors.lora import attach_text_lora
from trainers.text.data.batches import TextMicroBatch, TextPlan, text_step_batch
from trainers.text.data.chat import Encoded, Role
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.training.unmasking import Unmasking

HEADS = ("network", "documents x length", "tokens/s", "peak memory", "TFLOP/s", "of the matrix product", "target")
STEPS_OF_DOCUMENTS = 8


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
    parser.add_argument("--steps", type=int, default=10, help="measured steps per row, at most")
    parser.add_argument("--seconds", type=float, default=120, help="time budget of a row")
    parser.add_argument("--out", type=Path, help="file that the rows are appended to")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to check that the program runs")
    args = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or args.tiny):
        print("nothing measured: no CUDA accelerator here; --tiny checks on the CPU that the program runs")
        return 0
    device = device_here()
    measuring = Measuring(device, product_tflops(device, 256 if args.tiny else 8192), args.steps, args.seconds)
    print(header(measuring))
    writer = RowWriter(HEADS, args.out)
    for row in TINY_ROWS.values() if args.tiny else [ROWS[name] for name in args.rows]:
        writer.row(measured(row, measuring))
    return int(writer.has_failed)


def measured(row: Row, measuring: Measuring) -> tuple[str, ...]:
    device = measuring.device

    def cells() -> tuple[str, ...]:
        training = Steps(row, device)
        rate = units_per_second(training.run, row.documents * row.length, measuring)
        achieved = rate * operations_per_token(row, training.base) / 1e12
        ratio = achieved / measuring.best_tflops
        missed = " (missed)" if row.target is not None and ratio < row.target else ""
        target = "" if row.target is None else f"{row.target:.2f}{missed}"
        return f"{rate:,.0f}", memory_text(device), f"{achieved:.1f}", f"{ratio:.2f}", target

    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row_or_problem(cells, (row.title, f"{row.documents} x {row.length}"), measuring.seconds)


class Steps:
    """A training that runs a number of steps at a time, by the real loop on real batches of random documents."""

    def __init__(self, row: Row, device: torch.device) -> None:
        self.base = base_of(row, device)
        self._row = row
        self._device = device
        if row.lora:
            self._parameters = attach_text_lora(
                self.base, r=32, alpha=64, dropout=0.0, targets="all-linear", seed=1, train_mask_embedding=False
            )
            self.base.model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self._parameters = list(self.base.model.requires_grad_(True).train().parameters())
        self._documents = random_documents(row, self.base.mask_id)

    def run(self, steps: int) -> None:
        loop_run(self._training_plan(steps), self._device)

    def _training_plan(self, steps: int) -> TrainingPlan[TextMicroBatch]:
        settings = replace(recipe(packing=True), mask_id=self.base.mask_id)
        plan = TextPlan(len(self._documents), self._row.documents, 1, 1, seed=1)
        rows = range(len(self._documents))
        return TrainingPlan(
            total_steps=steps,
            seed=1,
            batch=lambda step: text_step_batch(self._documents, rows, settings, plan, step, 0),
            loss=Unmasking(self.base, self._device, torch.bfloat16, None),
            parameters=self._parameters,
            optimizer=optimizer_of(
                "adamw", [Group("weights", self._parameters, 1e-5)], betas=(0.9, 0.999), weight_decay=0.0, epsilon=1e-8
            ),
            schedule=schedule("constant", warmup_steps=0, total_steps=steps),
            max_grad_norm=1.0,
            scaler=torch.amp.GradScaler(self._device.type, enabled=False),
            checkpoint_every=NEVER,
            evaluate_every=NEVER,
            unit="tokens",
            save=lambda _progress: None,
            further_metrics=("masked_nll",),
        )


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


def random_documents(row: Row, mask_id: int) -> list[Encoded]:
    """Documents of equal length for several steps, all of it a response."""
    generator = np.random.default_rng(1)
    roles_L = np.full(row.length, Role.RESPONSE, np.uint8)
    return [
        Encoded(generator.integers(3, mask_id, row.length).astype(np.int32), roles_L)
        for _ in range(STEPS_OF_DOCUMENTS * row.documents)
    ]


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


if __name__ == "__main__":
    sys.exit(main())
