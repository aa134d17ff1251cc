"""LLaDA's checkpoint format (Nie et al. 2025): a bidirectional Llama with OLMo's config keys and tensor names."""

import re
from typing import Any

from transformers import LlamaConfig

from trainers.contract.errors import ReasonCode, TrainerError

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
"""Settings with the only values that the Llama class implements."""


def native_name(name: str) -> str:
    """model.transformer.blocks.3.attn_out.weight -> model.layers.3.self_attn.o_proj.weight."""
    path = name.removeprefix(PREFIX)
    if match := re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", path):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{INNER.get(part, part)}.{kind}"
    part, _, kind = path.partition(".")
    return f"{OUTER[part]}.{kind}" if part in OUTER else name


def original_name(name: str) -> str:
    """The inverse of `native_name`."""
    part, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part):
        layer, inner = match.groups()
        return f"{PREFIX}blocks.{layer}.{_key(INNER, inner)}.{kind}"
    return f"{PREFIX}{_key(OUTER, part)}.{kind}"


def config_of(raw: dict[str, Any]) -> LlamaConfig:
    """LLaDA's config.json as a LlamaConfig. Raises TrainerError(BAD_BASE_MODEL) for a setting that Llama lacks."""
    for key, expected in ONLY.items():
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


def _required_int(raw: dict[str, Any], key: str) -> int:
    if not isinstance(raw.get(key), int):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"config.json: expected a whole number as {key}, got {raw.get(key)!r}"
        )
    value: int = raw[key]
    return value
