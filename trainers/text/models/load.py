"""Loads the folder of a text model, in its authors' format or ours: network, tokenizer and special tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers.initialization import no_init_weights

from formats.models.text_configs import MARK, marked, text_keys_ignored
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.device import network_quantise
from trainers.core.model_files import bad_files, from_view, ignored_log, special_tokens_check, tokenizer_view
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.models.families import SpecialIds, TextFamily, config_read, family_of, same_name
from trainers.text.models.weights import weights_fill

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the values of the parameter `dtype`."""


def load_text(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    quantization: Literal["none", "nf4"] = "none",
) -> TextBase:
    """The model of `folder` in `dtype` on `device`, frozen, in eval mode, with bidirectional attention; no remote code.

    A causal checkpoint gets a mask token in an unused or a new row of its vocabulary. Raises
    TrainerError(BAD_BASE_MODEL) for an unsupported or damaged folder.
    """
    raw = config_read(folder)
    family = family_of(raw)
    with bad_files():
        ignored_log(text_keys_ignored(folder, family.name))
    model = _network(family, raw, dtype, "cpu" if quantization == "nf4" else device)
    weights_fill(model, folder, same_name if marked(raw) else family.native_name)
    base = _base(folder, family, raw, model)
    if quantization == "nf4":
        network_quantise(base.model, "nf4", torch.device(device))
    return base


def load_tokens(folder: Path) -> TextBase:
    """The same base without weights (on the meta device): tokenizer, special tokens and sizes."""
    raw = config_read(folder)
    family = family_of(raw)
    return _base(folder, family, raw, _network(family, raw, torch.bfloat16, "meta"))


def _base(folder: Path, family: TextFamily, raw: dict[str, Any], model: Any) -> TextBase:
    mark = marked(raw)
    tokenizer = tokenizer_load(folder, family)
    ids = ids_of(family, mark, raw, tokenizer, int(model.config.vocab_size))
    if ids.mask is None:
        ids = mask_token_add(model, tokenizer, ids)
    special_tokens_check(tokenizer, int(model.config.vocab_size), "the tokenizer")
    mask_token_register(tokenizer, ids)
    assert ids.mask is not None and ids.eos is not None and ids.pad is not None
    return TextBase(
        family=family.name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        mask_id=ids.mask,
        eos_id=ids.eos,
        pad_id=ids.pad,
        bos_id=ids.bos,
        shift=bool(mark.get("shift", family.shift)),
        was_causal=bool(mark.get("was_causal", family.is_causal)),
        max_positions=int(model.config.max_position_embeddings),
        bos_first=bool(mark.get("bos_first", False)),
    )


def _network(family: TextFamily, raw: dict[str, Any], dtype: torch.dtype, device: Any) -> Any:
    """The transformers model with uninitialised weights."""
    ours = bool(marked(raw))
    config = family.model_class.config_class.from_dict(raw) if ours else family.config_of(raw)
    config.is_causal = False
    if not ours:
        config.update({MARK: {"family": family.name, "original_config": raw}})
    with no_init_weights(), torch.device(device):
        return family.model_class._from_config(config, dtype=dtype, attn_implementation=ATTENTION)


def config_dtype(folder: Path) -> torch.dtype:
    """The dtype in the checkpoint's config; fp32 if it has none."""
    raw = config_read(folder)
    named = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype") or "float32"), None)
    return named if isinstance(named, torch.dtype) and named.is_floating_point else torch.float32


def ids_of(
    family: TextFamily, mark: dict[str, Any], raw: dict[str, Any], tokenizer: Any, vocab_size: int
) -> SpecialIds:
    """Ids of special tokens by precedence: our mark, config and tokenizer, then the family's defaults.

    `mask` is None for a causal checkpoint that has no mask token yet.
    """
    eos = _first(
        mark.get("eos_id"),
        tokenizer.eos_token_id,
        tokenizer.sep_token_id,
        _single_id(raw.get("eos_token_id")),
        _in_vocabulary(family.ids.eos, vocab_size),
        0,
    )
    return SpecialIds(
        mask=_first(
            mark.get("mask_id"),
            raw.get("mask_token_id"),
            tokenizer.mask_token_id,
            _token_id(tokenizer, family.mask_token),
            _in_vocabulary(family.ids.mask, vocab_size),
        ),
        eos=eos,
        pad=_first(
            mark.get("pad_id"),
            tokenizer.pad_token_id,
            raw.get("pad_token_id"),
            _in_vocabulary(family.ids.pad, vocab_size),
            eos,
        ),
        bos=_first(
            mark.get("bos_id"),
            tokenizer.bos_token_id,
            tokenizer.cls_token_id,
            _token_id(tokenizer, family.bos_token),  # before the config, in which Dream has the end of text
            _in_vocabulary(family.ids.bos, vocab_size),
            _single_id(raw.get("bos_token_id")),
        ),
    )


def mask_token_register(tokenizer: Any, ids: SpecialIds) -> None:
    """Declares the mask token to `tokenizer` if its vocabulary has the token without that role."""
    if tokenizer.mask_token_id is None and ids.mask is not None and ids.mask < len(tokenizer):
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(ids.mask)


def _token_id(tokenizer: Any, token: str | None) -> int | None:
    return tokenizer.get_vocab().get(token) if token else None


def _single_id(value: Any) -> int | None:
    """The id; of a list of end tokens the first, which is the one used in training."""
    return value[0] if isinstance(value, list) and value else value if isinstance(value, int) else None


def _first(*values: int | None) -> int | None:
    return next((int(value) for value in values if value is not None), None)


def _in_vocabulary(value: int | None, vocab_size: int) -> int | None:
    return value if value is not None and value < vocab_size else None


MASK_TOKEN = "<|mask|>"


def mask_token_add(model: Any, tokenizer: Any, ids: SpecialIds) -> SpecialIds:
    """Adds a mask token to `tokenizer`, in an unused row of `model` or in a new one, the mean of all others.

    Embedding and head both get the new row.
    """
    rows, num_tokens = int(model.config.vocab_size), len(tokenizer)
    if num_tokens > rows:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the tokenizer has {num_tokens} tokens but the network {rows} rows; expected at most as many",
        )
    tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    if num_tokens == rows:
        _grow(model, rows)
    return replace(ids, mask=int(tokenizer.mask_token_id))


@torch.no_grad()
def _grow(model: Any, rows: int) -> None:
    means = [layer.weight.float().mean(0) for layer in _embedding_and_head(model)]
    model.resize_token_embeddings(rows + 1, mean_resizing=False)
    for layer, mean in zip(_embedding_and_head(model), means, strict=True):
        layer.weight[rows] = mean.to(layer.weight.dtype)


def _embedding_and_head(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def tokenizer_load(folder: Path, family: TextFamily) -> Any:
    """Opens the tokenizer from its data files with the folder's class if supported, else the family's.

    Never runs code of the folder. Raises TrainerError(BAD_BASE_MODEL).
    """
    with tokenizer_view(folder) as (view, files):
        return from_view(_tokenizer_class(files.class_name or family.tokenizer_class, view), view, "the tokenizer")


def _tokenizer_class(name: str, view: Path) -> Any:
    cls = getattr(transformers, name)
    if cls is transformers.PreTrainedTokenizerFast and not (view / "tokenizer.json").is_file():
        return transformers.GPT2Tokenizer if (view / "merges.txt").is_file() else transformers.BertTokenizer
    return cls
