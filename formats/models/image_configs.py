"""Configurations of image models in diffusers' layout: keys that are read, and their bounds.

Facts from the constructors of diffusers' and transformers' classes and from the published models of the five families.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from formats.models.configs import (
    ACTIVATION,
    COUNT,
    EPSILON,
    HEADS,
    MAX_INDEX_BYTES,
    PROBABILITY,
    TOKEN_ID,
    WIDTH,
    WORD,
    YES_NO,
    Cleaned,
    Kinds,
    choice,
    config_clean,
    each,
    integer,
    json_file_read,
    number,
    one_or_each,
    optional,
    shard_files,
)
from formats.models.image_families import scheduler_config_clean
from formats.models.tokenizer_files import tokenizer_files_read

SIDE = integer(1, 16384)
CHANNELS = integer(1, 4096)
DOWN = choice("DownBlock2D", "CrossAttnDownBlock2D")
UP = choice("UpBlock2D", "CrossAttnUpBlock2D")
LAYERS = one_or_each(one_or_each(integer(0, 64)))
UNET: Kinds = {
    "_class_name": choice("UNet2DConditionModel"),
    "sample_size": optional(one_or_each(SIDE)),
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "center_input_sample": YES_NO,
    "flip_sin_to_cos": YES_NO,
    "freq_shift": integer(0, 1000),
    "down_block_types": each(DOWN, 16),
    "mid_block_type": optional(choice("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")),
    "up_block_types": each(UP, 16),
    "only_cross_attention": one_or_each(YES_NO),
    "block_out_channels": each(WIDTH, 16),
    "layers_per_block": one_or_each(integer(1, 32)),
    "downsample_padding": optional(integer(0, 8)),
    "mid_block_scale_factor": number(1e-3, 1e3),
    "dropout": PROBABILITY,
    "act_fn": ACTIVATION,
    "norm_num_groups": optional(integer(1, 1024)),
    "norm_eps": EPSILON,
    "cross_attention_dim": one_or_each(WIDTH),
    "transformer_layers_per_block": LAYERS,
    "reverse_transformer_layers_per_block": optional(LAYERS),
    "encoder_hid_dim": optional(WIDTH),
    "encoder_hid_dim_type": optional(choice("text_proj")),
    "attention_head_dim": one_or_each(HEADS),
    "num_attention_heads": optional(one_or_each(HEADS)),
    "dual_cross_attention": YES_NO,
    "use_linear_projection": YES_NO,
    "class_embed_type": optional(choice("timestep", "identity", "projection", "simple_projection")),
    "addition_embed_type": optional(choice("text", "text_time")),
    "addition_time_embed_dim": optional(WIDTH),
    "num_class_embeds": optional(integer(1, 100_000)),
    "upcast_attention": optional(YES_NO),
    "resnet_time_scale_shift": choice("default", "scale_shift"),
    "resnet_skip_time_act": YES_NO,
    "resnet_out_scale_factor": number(1e-3, 1e3),
    "time_embedding_type": choice("positional", "fourier"),
    "time_embedding_dim": optional(WIDTH),
    "time_embedding_act_fn": optional(ACTIVATION),
    "timestep_post_act": optional(ACTIVATION),
    "time_cond_proj_dim": optional(WIDTH),
    "conv_in_kernel": integer(1, 15),
    "conv_out_kernel": integer(1, 15),
    "projection_class_embeddings_input_dim": optional(WIDTH),
    "attention_type": choice("default", "gated", "gated-text-image"),
    "class_embeddings_concat": YES_NO,
    "mid_block_only_cross_attention": optional(YES_NO),
    "cross_attention_norm": optional(choice("layer_norm", "group_norm")),
    "addition_embed_type_num_heads": HEADS,
}
VAE: Kinds = {
    "_class_name": choice("AutoencoderKL"),
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "down_block_types": each(choice("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), 16),
    "up_block_types": each(choice("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), 16),
    "block_out_channels": each(WIDTH, 16),
    "layers_per_block": integer(1, 32),
    "act_fn": ACTIVATION,
    "latent_channels": integer(1, 1024),
    "norm_num_groups": integer(1, 1024),
    "sample_size": one_or_each(SIDE),
    "scaling_factor": number(1e-6, 1e3),
    "shift_factor": optional(number(-1e3, 1e3)),
    "latents_mean": optional(each(number(-1e4, 1e4), 1024)),
    "latents_std": optional(each(number(-1e4, 1e4), 1024)),
    "force_upcast": YES_NO,
    "use_quant_conv": YES_NO,
    "use_post_quant_conv": YES_NO,
    "mid_block_add_attention": YES_NO,
}
SD3_TRANSFORMER: Kinds = {
    "_class_name": choice("SD3Transformer2DModel"),
    "sample_size": SIDE,
    "patch_size": integer(1, 64),
    "in_channels": CHANNELS,
    "out_channels": optional(CHANNELS),
    "num_layers": COUNT,
    "attention_head_dim": HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "pos_embed_max_size": integer(1, 1024),
    "dual_attention_layers": each(integer(0, 255), 256),
    "qk_norm": optional(choice("rms_norm", "layer_norm")),
}
FLUX_TRANSFORMER: Kinds = {
    "_class_name": choice("FluxTransformer2DModel"),
    "patch_size": integer(1, 64),
    "in_channels": CHANNELS,
    "out_channels": optional(CHANNELS),
    "num_layers": integer(0, 256),
    "num_single_layers": integer(0, 256),
    "attention_head_dim": HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "guidance_embeds": YES_NO,
    "axes_dims_rope": each(HEADS, 8),
}
CLIP_TEXT: Kinds = {
    "model_type": choice("clip_text_model", "clip"),
    "vocab_size": integer(1, 2_000_000),
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "projection_dim": WIDTH,
    "num_hidden_layers": COUNT,
    "num_attention_heads": HEADS,
    "max_position_embeddings": integer(1, 1 << 16),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
    "attention_dropout": PROBABILITY,
    "initializer_range": number(0, 10),
    "initializer_factor": number(0, 10),
    "pad_token_id": optional(TOKEN_ID),
    "bos_token_id": optional(TOKEN_ID),
    "eos_token_id": optional(TOKEN_ID),
}
T5_TEXT: Kinds = {
    "model_type": choice("t5"),
    "vocab_size": integer(1, 2_000_000),
    "d_model": WIDTH,
    "d_kv": WIDTH,
    "d_ff": integer(1, 1 << 18),
    "num_layers": COUNT,
    "num_decoder_layers": optional(integer(0, 256)),
    "num_heads": HEADS,
    "relative_attention_num_buckets": integer(1, 1 << 16),
    "relative_attention_max_distance": integer(1, 1 << 20),
    "dropout_rate": PROBABILITY,
    "classifier_dropout": PROBABILITY,
    "layer_norm_epsilon": EPSILON,
    "initializer_factor": number(0, 10),
    "feed_forward_proj": choice("relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"),
    "dense_act_fn": ACTIVATION,
    "is_gated_act": YES_NO,
    "is_encoder_decoder": YES_NO,
    "is_decoder": choice(False),
    "use_cache": YES_NO,
    "tie_word_embeddings": YES_NO,
    "scale_decoder_outputs": YES_NO,
    "pad_token_id": optional(TOKEN_ID),
    "eos_token_id": optional(TOKEN_ID),
    "decoder_start_token_id": optional(TOKEN_ID),
}
BY_CLASS: dict[str, Kinds] = {
    "UNet2DConditionModel": UNET,
    "AutoencoderKL": VAE,
    "SD3Transformer2DModel": SD3_TRANSFORMER,
    "FluxTransformer2DModel": FLUX_TRANSFORMER,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT,
    "T5EncoderModel": T5_TEXT,
}
"""Keys of a part's config.json, by the class that opens it."""
ENTRY = optional(each(optional(WORD), 2))
"""["diffusers", "AutoencoderKL"], or [null, null] for an absent part."""
INDEX: Kinds = {
    "_class_name": optional(WORD),
    **{
        part: ENTRY
        for kind in ("text_encoder", "tokenizer")
        for part in (kind, *(f"{kind}_{index}" for index in (2, 3)))
    },
    **dict.fromkeys(("unet", "transformer", "vae", "scheduler"), ENTRY),
    "force_zeros_for_empty_prompt": YES_NO,
}
"""model_index.json."""
UNIMPORTANT = frozenset(("feature_extractor", "image_encoder", "safety_checker", "requires_safety_checker"))
"""Keys of model_index.json for parts that no job uses."""


def part_config_clean(raw: dict[str, Any], class_name: str, file: str) -> Cleaned:
    """config.json of a part that `class_name` opens. Raises ConfigError."""
    return config_clean(raw, BY_CLASS[class_name], file)


def index_clean(raw: dict[str, Any]) -> Cleaned:
    """model_index.json. Raises ConfigError."""
    cleaned = config_clean(raw, INDEX, "model_index.json")
    return Cleaned(cleaned.values, tuple(key for key in cleaned.ignored if key not in UNIMPORTANT))


def pipeline_keys_ignored(folder: Path) -> tuple[str, ...]:
    """Checks all config files of a model in diffusers' layout and returns the ignored keys.

    Raises ConfigError or JsonError that name file, key, value and expectation.
    """
    raw = json_file_read(folder / "model_index.json", "model_index.json")
    index, left_out = index_clean(raw)
    ignored = [f"model_index.json {key}" for key in left_out]
    for part, entry in index.items():
        class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if not isinstance(class_name, str) or not (folder / part).is_dir():
            continue
        if class_name in BY_CLASS:
            ignored += _part_ignored(folder, part, class_name)
        elif part.startswith("tokenizer"):
            ignored += tokenizer_files_read(folder / part, f"{part}/").ignored
        elif part == "scheduler":
            ignored += _ignored(folder, "scheduler/scheduler_config.json", scheduler_config_clean, allow_infinity=True)
    return tuple(ignored)


def _part_ignored(folder: Path, part: str, class_name: str) -> list[str]:
    for path in sorted((folder / part).glob("*.safetensors.index*.json")):
        name = f"{part}/{path.name}"
        shard_files(json_file_read(path, name, most=MAX_INDEX_BYTES), name)
    return _ignored(folder, f"{part}/config.json", lambda raw, name: part_config_clean(raw, class_name, name))


def _ignored(folder: Path, name: str, clean: Callable[[dict[str, Any], str], Any], **options: bool) -> list[str]:
    if not (folder / name).is_file():
        return []
    return [f"{name} {key}" for key in clean(json_file_read(folder / name, name, **options), name).ignored]
