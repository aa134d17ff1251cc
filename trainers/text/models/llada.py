"""LLaDA (Nie et al. 2025): a Llama that sees both sides, under OLMo's tensor names."""

import re
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.models.family import SpecialIds, TextFamily

PREFIX = "model.transformer."
OUTER = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
INNER = {
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
ONLY = {
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
"""Settings that the Llama class has in this one way; another value would be another network."""


def native_name(name: str) -> str:
    """model.transformer.blocks.3.attn_out.weight -> model.layers.3.self_attn.o_proj.weight."""
    path = name.removeprefix(PREFIX)
    if found := re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", path):
        layer, part, kind = found.groups()
        return f"model.layers.{layer}.{INNER.get(part, part)}.{kind}"
    part, _, kind = path.partition(".")
    return f"{OUTER[part]}.{kind}" if part in OUTER else name


def original_name(name: str) -> str:
    """The inverse of `native_name`."""
    part, _, kind = name.rpartition(".")
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part):
        layer, inner = found.groups()
        return f"{PREFIX}blocks.{layer}.{_key(INNER, inner)}.{kind}"
    return f"{PREFIX}{_key(OUTER, part)}.{kind}"


def config_of(raw: dict[str, Any]) -> LlamaConfig:
    """LLaDA's config.json as a LlamaConfig. TrainerError(BAD_BASE_MODEL): a setting that no Llama has."""
    for key, only in ONLY.items():
        if (given := raw.get(key, only)) != only:
            raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"config.json: {key} is {given!r}, expected {only!r}")
    heads = _needed(raw, "n_heads")
    return LlamaConfig(
        vocab_size=raw.get("embedding_size") or _needed(raw, "vocab_size"),
        hidden_size=_needed(raw, "d_model"),
        intermediate_size=raw.get("mlp_hidden_size") or int(raw.get("mlp_ratio", 4) * _needed(raw, "d_model")),
        num_hidden_layers=_needed(raw, "n_layers"),
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


def original_config(config: Any) -> dict[str, Any]:
    return {
        **ONLY,
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


def _key(table: dict[str, str], value: str) -> str:
    return next(key for key, other in table.items() if other == value)


def _needed(raw: dict[str, Any], key: str) -> int:
    if not isinstance(raw.get(key), int):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"config.json: expected a whole number as {key}, got {raw.get(key)!r}"
        )
    value: int = raw[key]
    return value


LLADA = TextFamily(
    name="llada",
    title="LLaDA",
    model_class=LlamaForCausalLM,
    config_of=config_of,
    native_name=native_name,
    original_name=original_name,
    original_config=original_config,
    tokenizer_class="PreTrainedTokenizerFast",
    ids=SpecialIds(mask=126336, eos=126081, pad=126081, bos=126080),
    mask_token="<|mdm_mask|>",
    bos_token="<|startoftext|>",
)
