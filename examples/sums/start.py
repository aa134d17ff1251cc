"""Builds the model that the base is trained from: a small LLaDA with random weights in LLaDA's format.

python -m examples.sums.start --to /tmp/sums/start
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.sums.rows import sets
from trainers.text.models.base import TextBase
from trainers.text.models.weights import export_original

SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
WIDTH, LAYERS, HEADS, MLP = 128, 3, 4, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    start_write(parser.parse_args().to)


def start_write(folder: Path) -> None:
    tokenizer = new_tokenizer()
    bos, eos, mask = (tokenizer.convert_tokens_to_ids(SPECIAL[index]) for index in (0, 1, 5))
    base = TextBase(
        family="llada",
        model=new_model(len(tokenizer), bos, eos, mask),
        tokenizer=tokenizer,
        mask_id=mask,
        eos_id=eos,
        pad_id=eos,
        bos_id=bos,
        shift=False,
        was_causal=False,
        max_positions=128,
    )
    export_original(base, folder)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: each word of the rows is one token, any other text falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["user", "assistant", "\n\n", *(text for rows in sets().values() for row in rows for text in row.values())]
    trainer = trainers.BpeTrainer(
        special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[1],
        mask_token=SPECIAL[5],
        additional_special_tokens=list(SPECIAL[2:5]),
        model_max_length=128,
    )


def new_model(vocab_size: int, bos: int, eos: int, mask: int) -> LlamaForCausalLM:
    """0.6 million weights."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    config.is_causal = False
    config.mask_token_id = mask
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
