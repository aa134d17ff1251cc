"""The families of text models: how each one's checkpoints map to a transformers class, and the family of a folder.

The folder's config.json decides the family. Llama, Qwen2 and Qwen3 are causal checkpoints that become diffusion models
with bidirectional attention (Gong et al. 2024, "Scaling diffusion language models via adaptation from autoregressive
models").
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from formats.models import text_configs
from formats.models.configs import json_file_read
from formats.models.text_configs import text_config_clean, text_family_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.model_files import bad_files

BERT_SKIPPED = re.compile(r"bert\.pooler\.|cls\.seq_relationship\.|bert\.embeddings\.position_ids$")
"""Heads of other tasks, and a buffer in old checkpoints."""


LLADA_PREFIX = "model.transformer."
LLADA_OUTER = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
LLADA_INNER = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
LLADA_ONLY = {
    "alibi": False,
    "rope": True,
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
"""Settings with the only values that the Llama class implements."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of special tokens; as a family's field, the fallback where neither config nor tokenizer has them."""

    mask: int | None = None
    eos: int | None = None
    pad: int | None = None
    bos: int | None = None


@dataclass(frozen=True)
class TextFamily:
    name: str
    title: str
    model_class: Any
    config_of: Callable[[dict[str, Any]], Any]
    """config.json in the original format -> config of the transformers class. May raise TrainerError."""
    native_name: Callable[[str], str | None]
    """Tensor name in the original format -> name in the transformers class; None: skipped."""
    original_name: Callable[[str], str]
    original_config: Callable[[Any], dict[str, Any]]
    """Config of the transformers class -> config.json in the original format."""
    tokenizer_class: str
    """Tokenizer class in transformers if the folder names none or remote code."""
    ids: SpecialIds = SpecialIds()
    mask_token: str | None = None
    bos_token: str | None = None
    """Their names in the family's vocabulary, for tokenizers that do not declare them."""
    shift: bool = False

    @property
    def is_causal(self) -> bool:
        """Checkpoints in the original format are causal language models."""
        return text_configs.FAMILIES[self.name].is_causal


def same_name(name: str) -> str:
    return name


def _stock_config(config_class: Any) -> Callable[[dict[str, Any]], Any]:
    """config.json -> a config of `config_class`, for families whose format is that of the transformers class."""

    def config_of(raw: dict[str, Any]) -> Any:
        return config_class.from_dict({k: v for k, v in raw.items() if k not in ("architectures", "auto_map")})

    return config_of


def _stock_original_config(config: Any) -> dict[str, Any]:
    raw: dict[str, Any] = config.to_dict()
    return {k: v for k, v in raw.items() if k not in ("diffusion", "is_causal")}


def _bert_native_name(name: str) -> str | None:
    """TensorFlow checkpoints name a layer norm's weight gamma and its bias beta."""
    if BERT_SKIPPED.match(name):
        return None
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


def strip_buffers(name: str) -> str | None:
    """Skips the RoPE frequencies of old checkpoints, which are computed."""
    return None if name.endswith("rotary_emb.inv_freq") else name


def full_attention_check(config: Any) -> None:
    """Raises TrainerError for a sliding window over past tokens, which bidirectional attention does not support."""
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, "config.json: use_sliding_window is true, expected false")


def _causal_family(name: str, title: str, config_class: Any, model_class: Any, tokenizer_class: str) -> TextFamily:
    """A causal checkpoint in the format of its transformers class, whose attention becomes bidirectional."""
    stock_config = _stock_config(config_class)

    def config_of(raw: dict[str, Any]) -> Any:
        config = stock_config(raw)
        full_attention_check(config)
        return config

    return TextFamily(
        name=name,
        title=title,
        model_class=model_class,
        config_of=config_of,
        native_name=strip_buffers,
        original_name=same_name,
        original_config=_stock_original_config,
        tokenizer_class=tokenizer_class,
    )


def _dream_config(raw: dict[str, Any]) -> Qwen2Config:
    plain = {key: value for key, value in raw.items() if key not in ("model_type", "architectures", "auto_map")}
    config = Qwen2Config.from_dict(plain)
    full_attention_check(config)
    return config


def _dream_original_config(config: Any) -> dict[str, Any]:
    """Dream's config format, with rope_theta at the top level, where older tools expect it."""
    raw: dict[str, Any] = config.to_dict()
    rope = raw.pop("rope_parameters")
    config_json = {key: value for key, value in raw.items() if key not in ("diffusion", "is_causal", "layer_types")}
    return config_json | {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
    }


def _llada_config(raw: dict[str, Any]) -> LlamaConfig:
    """LLaDA's config.json as a LlamaConfig. Raises TrainerError(BAD_BASE_MODEL) for a setting that Llama lacks."""
    for key, expected in LLADA_ONLY.items():
        if (value := raw.get(key, expected)) != expected:
            raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"config.json: {key} is {value!r}, expected {expected!r}")
    heads = _required_int(raw, "n_heads")
    return LlamaConfig(
        vocab_size=raw.get("embedding_size") or _required_int(raw, "vocab_size"),
        hidden_size=_required_int(raw, "d_model"),
        intermediate_size=raw.get("mlp_hidden_size") or int(raw.get("mlp_ratio", 4) * _required_int(raw, "d_model")),
        num_hidden_layers=_required_int(raw, "n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=raw.get("n_kv_heads") or heads,
        max_position_embeddings=raw.get("max_sequence_length", 4096),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": float(raw.get("rope_theta", 5e5))},
        attention_dropout=raw.get("attention_dropout", 0.0),
        tie_word_embeddings=raw.get("weight_tying", False),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_id=raw.get("eos_token_id"),
        pad_token_id=raw.get("pad_token_id"),
    )


def _llada_original_config(config: Any) -> dict[str, Any]:
    return {
        **LLADA_ONLY,
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "mlp_hidden_size": config.intermediate_size,
        "mlp_ratio": 4,
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "max_sequence_length": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rope_full_precision": True,
        "layer_norm_with_affine": True,
        "attention_layer_norm_with_affine": True,
        "attention_dropout": config.attention_dropout,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "multi_query_attention": None,
        "flash_attention": False,
        "init_device": "cpu",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "init_cutoff_factor": None,
        "alibi_bias_max": 8.0,
        "precision": "amp_bf16",
        "use_cache": False,
        "weight_tying": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "mask_token_id": config.mask_token_id,
    }


def _llada_native_name(name: str) -> str:
    """model.transformer.blocks.3.attn_out.weight -> model.layers.3.self_attn.o_proj.weight."""
    path = name.removeprefix(LLADA_PREFIX)
    if match := re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", path):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{LLADA_INNER.get(part, part)}.{kind}"
    part, _, kind = path.partition(".")
    return f"{LLADA_OUTER[part]}.{kind}" if part in LLADA_OUTER else name


def _llada_original_name(name: str) -> str:
    """The inverse of `_llada_native_name`."""
    part, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part):
        layer, inner = match.groups()
        return f"{LLADA_PREFIX}blocks.{layer}.{_key(LLADA_INNER, inner)}.{kind}"
    return f"{LLADA_PREFIX}{_key(LLADA_OUTER, part)}.{kind}"


LLADA = TextFamily(
    name="llada",
    title="LLaDA",
    model_class=LlamaForCausalLM,
    config_of=_llada_config,
    native_name=_llada_native_name,
    original_name=_llada_original_name,
    original_config=_llada_original_config,
    tokenizer_class="PreTrainedTokenizerFast",
    ids=SpecialIds(mask=126336, eos=126081, pad=126081, bos=126080),
    mask_token="<|mdm_mask|>",
    bos_token="<|startoftext|>",
)
DREAM = TextFamily(
    name="dream",
    title="Dream",
    model_class=Qwen2ForCausalLM,
    config_of=_dream_config,
    native_name=strip_buffers,
    original_name=same_name,
    original_config=_dream_original_config,
    tokenizer_class="Qwen2Tokenizer",
    ids=SpecialIds(mask=151666, eos=151643, pad=151643, bos=151665),
    mask_token="<|mask|>",
    bos_token="<|beginoftext|>",
    shift=True,
)
BERT = TextFamily(
    name="bert",
    title="BERT",
    model_class=BertForMaskedLM,
    config_of=_stock_config(BertConfig),
    native_name=_bert_native_name,
    original_name=same_name,
    original_config=_stock_original_config,
    tokenizer_class="BertTokenizer",
    ids=SpecialIds(mask=103, eos=102, pad=0, bos=101),
)
MODERNBERT = TextFamily(
    name="modernbert",
    title="ModernBERT",
    model_class=ModernBertForMaskedLM,
    config_of=_stock_config(ModernBertConfig),
    native_name=same_name,
    original_name=same_name,
    original_config=_stock_original_config,
    tokenizer_class="PreTrainedTokenizerFast",
    ids=SpecialIds(mask=50284, eos=50282, pad=50283, bos=50281),
)
LLAMA = _causal_family("llama", "Llama", LlamaConfig, LlamaForCausalLM, "PreTrainedTokenizerFast")
QWEN2 = _causal_family("qwen2", "Qwen2", Qwen2Config, Qwen2ForCausalLM, "Qwen2Tokenizer")
QWEN3 = _causal_family("qwen3", "Qwen3", Qwen3Config, Qwen3ForCausalLM, "Qwen2Tokenizer")
FAMILIES: dict[str, TextFamily] = {
    family.name: family for family in (LLADA, DREAM, BERT, MODERNBERT, LLAMA, QWEN2, QWEN3)
}


def config_read(folder: Path) -> dict[str, Any]:
    """The supported keys of config.json. Raises TrainerError(BAD_BASE_MODEL) if it is invalid."""
    with bad_files():
        raw = json_file_read(folder / "config.json", "config.json")
        return text_config_clean(raw, family_of(raw).name).values


def family_of(raw: dict[str, Any]) -> TextFamily:
    """The family named by our mark, else by `model_type`. Raises TrainerError(BAD_BASE_MODEL) for another."""
    with bad_files():
        return FAMILIES[text_family_of(raw)]


def _key(table: dict[str, str], value: str) -> str:
    return next(key for key, other in table.items() if other == value)


def _required_int(raw: dict[str, Any], key: str) -> int:
    if not isinstance(raw.get(key), int):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"config.json: expected a whole number as {key}, got {raw.get(key)!r}"
        )
    value: int = raw[key]
    return value
