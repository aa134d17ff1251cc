"""Opens the folder of a text model: LLaDA and Dream as their authors ship them, BERT, ModernBERT, causal ones, ours."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers.initialization import no_init_weights

from formats.base_model import text_keys_ignored
from formats.text_configs import MARK, marked
from trainers.core.folder_views import bad_files, ignored_log
from trainers.core.quantization import network_quantise
from trainers.core.special_tokens import special_tokens_check
from trainers.text.models.attention import NAME as ATTENTION
from trainers.text.models.base import TextBase
from trainers.text.models.families import config_read, family_of
from trainers.text.models.family import TextFamily, same_name
from trainers.text.models.ids import ids_of, ids_tell
from trainers.text.models.mask_token import mask_token_make
from trainers.text.models.tensors import weights_fill
from trainers.text.models.tokenizer import tokenizer_load


def load_text(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    quantization: Literal["none", "nf4"] = "none",
) -> TextBase:
    """The model of `folder` in `dtype` on `device`, frozen, in eval mode, seeing both sides; no remote code.

    A causal checkpoint gets a mask token: a spare row of its vocabulary, or one row more. Raises
    TrainerError(BAD_BASE_MODEL) that says what was found and what was expected.
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
    """The same base without its weights: its tokenizer, special tokens and sizes, for what is only looked at."""
    raw = config_read(folder)
    family = family_of(raw)
    return _base(folder, family, raw, _network(family, raw, torch.bfloat16, "meta"))


def _base(folder: Path, family: TextFamily, raw: dict[str, Any], model: Any) -> TextBase:
    mark = marked(raw)
    tokenizer = tokenizer_load(folder, family)
    ids = ids_of(family, mark, raw, tokenizer, int(model.config.vocab_size))
    if ids.mask is None:
        ids = mask_token_make(model, tokenizer, ids)
    special_tokens_check(tokenizer, int(model.config.vocab_size), "the tokenizer")
    ids_tell(tokenizer, ids)
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
    """The native class, its weights not set yet."""
    ours = bool(marked(raw))
    config = family.model_class.config_class.from_dict(raw) if ours else family.config_of(raw)
    config.is_causal = False
    if not ours:
        config.update({MARK: {"family": family.name, "original_config": raw}})
    with no_init_weights(), torch.device(device):
        return family.model_class._from_config(config, dtype=dtype, attn_implementation=ATTENTION)
