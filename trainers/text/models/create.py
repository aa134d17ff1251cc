"""A new text-diffusion model: a network with drawn weights, and a tokenizer of bytes where none is given."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from formats.models.text_configs import MARK
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.pretrain_text import PretrainTextParams
from trainers.core.model_files import special_tokens_check
from trainers.core.noise import Purpose, integer
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.models.families import FAMILIES, config_read, family_of
from trainers.text.models.load import MASK_TOKEN, ids_of, mask_token_register, tokenizer_load

END_TOKEN = "<|endoftext|>"
ROWS_MULTIPLE = 64
"""A vocabulary is rounded up to it: products of other sizes are slow on accelerators."""
POSITIONS = 32_768
"""Stated in the config; rotary positions have no table, so nothing grows with it."""


def text_create(params: PretrainTextParams, tokenizer_folder: Path | None) -> TextBase:
    """A model with fp32 weights drawn from `params.seed`, as the transformers class draws them, in train mode.

    `tokenizer_folder`: of a base model that gives its tokenizer; None: bytes. Raises TrainerError(BAD_PARAMETERS) if
    the vocabulary has no room for all tokens and the mask.
    """
    tokenizer, eos_id, pad_id, bos_id = _tokenizer(tokenizer_folder)
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    vocab_size = params.vocab_size or -(-num_tokens // ROWS_MULTIPLE) * ROWS_MULTIPLE
    if vocab_size < num_tokens:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"vocab_size={vocab_size} is too small: the tokenizer has {num_tokens} tokens with the mask; raise it, or "
            "leave it out",
        )
    special_tokens_check(tokenizer, vocab_size, "the tokenizer")
    return TextBase(
        family=params.architecture,
        model=_network(params, vocab_size, eos_id, pad_id, bos_id),
        tokenizer=tokenizer,
        mask_id=int(tokenizer.mask_token_id),
        eos_id=eos_id,
        pad_id=pad_id,
        bos_id=bos_id,
        shift=False,
        was_causal=False,
        max_positions=max(POSITIONS, params.packing_length),
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte of UTF-8 (ids 0 to 255), end of text 256, mask 257."""
    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    tokenizer = Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # as above
        tokenizer_object=tokenizer,
        eos_token=END_TOKEN,
        pad_token=END_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def _tokenizer(folder: Path | None) -> tuple[Any, int, int, int | None]:
    """Tokenizer and ids of end, padding and begin."""
    if folder is None:
        tokenizer = byte_tokenizer()
        return tokenizer, int(tokenizer.eos_token_id), int(tokenizer.pad_token_id), None
    raw = config_read(folder)
    family = family_of(raw)
    tokenizer = tokenizer_load(folder, family)
    ids = ids_of(family, {}, raw, tokenizer, len(tokenizer))
    mask_token_register(tokenizer, ids)
    assert ids.eos is not None and ids.pad is not None
    return tokenizer, ids.eos, ids.pad, ids.bos


def _network(params: PretrainTextParams, vocab_size: int, eos_id: int, pad_id: int, bos_id: int | None) -> Any:
    model_class = FAMILIES[params.architecture].model_class
    config = model_class.config_class(
        vocab_size=vocab_size,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_layers,
        num_attention_heads=params.num_heads,
        num_key_value_heads=params.num_kv_heads,
        head_dim=params.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        tie_word_embeddings=params.tie_word_embeddings,
        max_position_embeddings=max(POSITIONS, params.packing_length),
        attention_dropout=0.0,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=bos_id,
    )
    config.is_causal = False
    config.update({MARK: {"family": params.architecture}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(2**31 - 1, params.seed, Purpose.WEIGHTS))
        return model_class._from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
