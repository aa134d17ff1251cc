"""config.json of language models: keys that are read by family, and their bounds.

Facts from the configurations that the models' authors publish and from transformers' classes. A model that one of our
jobs saved has the keys of its native class, and the mark `diffusion` with what that class does not know.
"""

from pathlib import Path
from typing import Any, NamedTuple

from formats.models.configs import (
    ACTIVATION,
    COUNT,
    EPSILON,
    HEADS,
    MAX_INDEX_BYTES,
    MAX_TOKENS,
    PROBABILITY,
    TOKEN_ID,
    WIDTH,
    WORD,
    YES_NO,
    Cleaned,
    ConfigError,
    Kind,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    integer,
    json_file_read,
    left_out,
    number,
    one_or_each,
    optional,
    shard_files,
    table,
)
from formats.models.tokenizer_files import tokenizer_files_read

MARK = "diffusion"
"""Key in the config.json of a model that we saved: {"family": ..., "mask_id": ..., ...}."""


class TextFamily(NamedTuple):
    is_causal: bool = False
    """Its checkpoints are causal language models, which a training job turns into diffusion models."""
    width: str = "hidden_size"
    positions: str = "max_position_embeddings"
    """Keys of the authors' config.json."""


FAMILIES = {
    "llada": TextFamily(width="d_model", positions="max_sequence_length"),
    "dream": TextFamily(),
    "bert": TextFamily(),
    "modernbert": TextFamily(),
    "llama": TextFamily(is_causal=True),
    "qwen2": TextFamily(is_causal=True),
    "qwen3": TextFamily(is_causal=True),
}
"""By lower-case `model_type`."""
VOCABULARY = integer(1, MAX_TOKENS)
OPTIONAL_TOKEN_ID = optional(TOKEN_ID)
POSITIONS = integer(1, 1 << 24)
INNER = integer(1, 1 << 20)
THETA = number(1, 1e12)
DTYPE = optional(choice("float32", "float16", "bfloat16", "float64"))
FACTORS = each(number(1e-6, 1e6), 4096)
ROPE = table(
    {
        "rope_type": choice("default", "linear", "dynamic", "yarn", "longrope", "llama3"),
        "type": choice("default", "linear", "dynamic", "yarn", "longrope", "llama3", "su"),
        "rope_theta": THETA,
        "factor": number(1e-3, 1e4),
        "original_max_position_embeddings": POSITIONS,
        "low_freq_factor": number(1e-3, 1e4),
        "high_freq_factor": number(1e-3, 1e4),
        "attention_factor": optional(number(1e-6, 1e4)),
        "beta_fast": number(1e-3, 1e6),
        "beta_slow": number(1e-3, 1e6),
        "mscale": number(1e-6, 1e4),
        "mscale_all_dim": number(1e-6, 1e4),
        "partial_rotary_factor": number(1e-3, 1),
        "truncate": YES_NO,
        "short_factor": FACTORS,
        "long_factor": FACTORS,
    }
)
COMMON: Kinds = {
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "_attn_implementation": left_out(
        optional(choice("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"))
    ),
    "attn_implementation": left_out(
        optional(choice("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"))
    ),
    "vocab_size": VOCABULARY,
    "use_cache": YES_NO,
    "is_causal": YES_NO,
    "tie_word_embeddings": YES_NO,
    "initializer_range": number(0, 10),
    "pad_token_id": OPTIONAL_TOKEN_ID,
    "bos_token_id": OPTIONAL_TOKEN_ID,
    "eos_token_id": optional(one_or_each(integer(0, 2_000_000))),
    "mask_token_id": OPTIONAL_TOKEN_ID,
    "cls_token_id": OPTIONAL_TOKEN_ID,
    "sep_token_id": OPTIONAL_TOKEN_ID,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": COUNT,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "layer_types": optional(each(choice("full_attention", "sliding_attention"), 256)),
}
CAUSAL: Kinds = {
    **COMMON,
    "num_key_value_heads": optional(HEADS),
    "head_dim": optional(integer(1, 4096)),
    "hidden_act": ACTIVATION,
    "rms_norm_eps": EPSILON,
    "rope_theta": THETA,
    "rope_scaling": optional(ROPE),
    "rope_parameters": optional(ROPE),
    "attention_bias": YES_NO,
    "attention_dropout": PROBABILITY,
    "mlp_bias": YES_NO,
    "pretraining_tp": integer(1, 64),
    "use_sliding_window": YES_NO,
    "sliding_window": optional(POSITIONS),
    "max_window_layers": integer(0, 256),
}
BERT: Kinds = {
    **COMMON,
    "max_position_embeddings": integer(1, 1 << 20),
    "hidden_act": ACTIVATION,
    "hidden_dropout_prob": PROBABILITY,
    "attention_probs_dropout_prob": PROBABILITY,
    "classifier_dropout": optional(PROBABILITY),
    "type_vocab_size": integer(1, 1024),
    "layer_norm_eps": EPSILON,
    "position_embedding_type": choice("absolute"),
    "is_decoder": choice(False),
    "add_cross_attention": choice(False),
}
MODERNBERT: Kinds = {
    **COMMON,
    "hidden_activation": ACTIVATION,
    "initializer_cutoff_factor": number(0, 100),
    "norm_eps": EPSILON,
    "norm_bias": YES_NO,
    "attention_bias": YES_NO,
    "attention_dropout": PROBABILITY,
    "rope_parameters": optional(either(table({"full_attention": ROPE, "sliding_attention": ROPE}), ROPE)),
    "global_rope_theta": THETA,
    "local_rope_theta": optional(THETA),
    "global_attn_every_n_layers": integer(1, 256),
    "local_attention": integer(1, 1 << 20),
    "embedding_dropout": PROBABILITY,
    "mlp_bias": YES_NO,
    "mlp_dropout": PROBABILITY,
    "decoder_bias": YES_NO,
    "classifier_pooling": choice("cls", "mean"),
    "classifier_dropout": PROBABILITY,
    "classifier_bias": YES_NO,
    "classifier_activation": ACTIVATION,
    "deterministic_flash_attn": YES_NO,
    "sparse_prediction": YES_NO,
    "sparse_pred_ignore_index": integer(-1000, 1000),
}
LLADA: Kinds = {
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "_attn_implementation": COMMON["_attn_implementation"],
    "architectures": each(WORD, 1),
    "d_model": WIDTH,
    "n_heads": HEADS,
    "n_kv_heads": optional(HEADS),
    "n_layers": COUNT,
    "mlp_hidden_size": optional(INNER),
    "mlp_ratio": number(1e-2, 64),
    "vocab_size": VOCABULARY,
    "embedding_size": optional(VOCABULARY),
    "max_sequence_length": POSITIONS,
    "rms_norm_eps": EPSILON,
    "rope_theta": THETA,
    "alibi_bias_max": number(0, 1e3),
    "attention_dropout": PROBABILITY,
    "residual_dropout": PROBABILITY,
    "embedding_dropout": PROBABILITY,
    "init_std": number(0, 10),
    "init_cutoff_factor": optional(number(0, 100)),
    "block_group_size": integer(1, 256),
    "multi_query_attention": optional(YES_NO),
    **dict.fromkeys(
        (
            "rope",
            "rope_full_precision",
            "alibi",
            "attention_layer_norm",
            "attention_layer_norm_with_affine",
            "layer_norm_with_affine",
            "bias_for_layer_norm",
            "include_bias",
            "include_qkv_bias",
            "input_emb_norm",
            "scale_logits",
            "flash_attention",
            "use_cache",
            "weight_tying",
        ),
        YES_NO,
    ),
    **dict.fromkeys(("block_type", "layer_norm_type", "activation_type", "init_device", "init_fn", "precision"), WORD),
    **dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id", "mask_token_id"), OPTIONAL_TOKEN_ID),
}
"""Keys in the config of LLaDA's authors."""
AUTHORS: dict[str, Kinds] = {
    "llada": LLADA,
    "dream": CAUSAL,
    "bert": BERT,
    "modernbert": MODERNBERT,
    "llama": CAUSAL,
    "qwen2": CAUSAL,
    "qwen3": CAUSAL,
}
NATIVE: dict[str, Kinds] = {**AUTHORS, "llada": CAUSAL}
"""Keys of the native class, for a model saved by one of our jobs."""
MARK_KINDS: Kinds = {
    "family": choice(*FAMILIES),
    **dict.fromkeys(("mask_id", "eos_id", "pad_id", "bos_id"), OPTIONAL_TOKEN_ID),
    **dict.fromkeys(("shift", "bos_first", "was_causal"), YES_NO),
}
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


class TextConfig(NamedTuple):
    values: dict[str, Any]
    """Includes the checked mark under `diffusion`, if present."""
    ignored: tuple[str, ...]


def text_family_of(raw: dict[str, Any]) -> str:
    """From our mark, else from the authors' `model_type`. Raises ConfigError."""
    name = marked(raw).get("family") or raw.get("model_type")
    if not isinstance(name, str) or name.lower() not in FAMILIES:
        raise ConfigError(f"config.json: model_type is {name!r:.100}, expected one of {', '.join(FAMILIES)}")
    return name.lower()


def marked(raw: dict[str, Any]) -> dict[str, Any]:
    """Our mark; {} if no job of ours wrote the config.json."""
    mark = raw.get(MARK)
    return mark if isinstance(mark, dict) else {}


def text_config_clean(raw: dict[str, Any], family: str, file: str = "config.json") -> TextConfig:
    """Checked config.json of a model of `family` (see `text_family_of`). Raises ConfigError."""
    mark = raw.get(MARK)
    kinds = AUTHORS[family] if mark is None else NATIVE[family]
    named = {"model_type": WORD, MARK: OBJECT}
    values, ignored = config_clean(raw, {**kinds, **named}, file)
    if mark is not None:
        values[MARK], inner = _mark_clean(mark, family, file)
        ignored = (*ignored, *(f"{MARK}.{key}" for key in inner))
    return TextConfig(values, ignored)


def _mark_clean(mark: dict[str, Any], family: str, file: str) -> Cleaned:
    values, ignored = config_clean(mark, {**MARK_KINDS, "original_config": OBJECT}, f"{file} {MARK}")
    original = values.get("original_config")
    if original is not None:
        kinds = {**AUTHORS[family], "model_type": WORD}
        values["original_config"], inner = config_clean(original, kinds, f"{file} {MARK}.original_config")
        ignored = (*ignored, *(f"original_config.{key}" for key in inner))
    return Cleaned(values, ignored)


def text_keys_ignored(folder: Path, family: str) -> tuple[str, ...]:
    """Checks all config files of a language model and returns the ignored keys. Raises ConfigError or JsonError."""
    _, left_out = text_config_clean(json_file_read(folder / "config.json", "config.json"), family)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shard_files(json_file_read(index, index.name, most=MAX_INDEX_BYTES), index.name)
    return (*(f"config.json {key}" for key in left_out), *tokenizer_files_read(folder).ignored)
