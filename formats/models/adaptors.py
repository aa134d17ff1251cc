"""Names in files of LoRA adaptors, as PEFT, kohya's sd-scripts and earlier versions of diffusers write them.

Each layer has a pair of matrices: the first ("down", A) goes from the inputs to the rank, the second ("up", B) to the
outputs. sd-scripts names the layers of the original networks: in Flux and SD3 query, key and value are one layer there,
so that one original name can stand for several of diffusers'.
"""

import re
from collections.abc import Iterable
from typing import Any

from formats.models.configs import (
    TOKEN_ID,
    YES_NO,
    Cleaned,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    integer,
    left_out,
    mapping,
    number,
    optional,
)

PEFT_DOWN, PEFT_UP, PEFT_MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
KOHYA_DOWN, KOHYA_UP, KOHYA_ALPHA, KOHYA_MAGNITUDE = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
OLDER_DOWN = ("_lora.down.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")
OLDER_UP = ("_lora.up.weight", ".lora.up.weight", ".lora_linear_layer.up.weight")
"""Of diffusers before PEFT."""
DOWN = (PEFT_DOWN, KOHYA_DOWN, *OLDER_DOWN, ".lora_A.default.weight")
"""Name endings of the first matrix of a pair."""
UP = (PEFT_UP, KOHYA_UP, *OLDER_UP, ".lora_B.default.weight")
KOHYA_STARTS = ("lora_unet_", "lora_transformer_", "lora_te", "diffusion_model.")
"""Prefixes of keys in files of kohya's sd-scripts and ComfyUI."""
OTHER_KINDS = (
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".lora_mid.", "LoCon with a Tucker core"),
    (".diff ", "full difference"),
    (".diff_b ", "full difference"),
    (".glora_", "GLoRA"),
    (".on_input", "IA3"),
    (".ia3_l", "IA3"),
    ("boft_", "BOFT"),
    ("lora_embedding_", "embedding LoRA"),
    (".lora_B.bias", "LoRA with bias"),
)
"""(part of a key, kind of adaptor) of unsupported kinds; a space matches the end of the key."""
TOKEN_IDS = each(TOKEN_ID, 1000)
MODULE = re.compile(r"[^\x00]{1,500}")
ADAPTOR: Kinds = {
    "peft_type": choice("LORA"),
    "lora_alpha": number(1e-6, 1e6),
    "alpha_pattern": optional(mapping(MODULE, number(1e-6, 1e6), 10_000)),
    "use_rslora": optional(YES_NO),
    "trainable_token_indices": optional(either(TOKEN_IDS, mapping(MODULE, TOKEN_IDS, 10))),
    "rank_pattern": left_out(optional(mapping(MODULE, integer(1, 1 << 16), 10_000))),
}


def is_lora(names: Iterable[str]) -> bool:
    """Whether any name belongs to a LoRA pair."""
    return any(name.endswith((*DOWN, *UP)) for name in names)


def other_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """The first key that belongs to an unsupported kind of adaptor, and that kind."""
    return next(((name, kind) for name in names for mark, kind in OTHER_KINDS if mark in f"{name} "), None)


def adaptor_config_clean(raw: dict[str, Any], file: str) -> Cleaned:
    """Raises ConfigError. The caller compares settings that must have one value."""
    return config_clean(raw, ADAPTOR, file)


FAMILY_PREFIXES = (
    ("stable-diffusion-xl", "sdxl"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-3", "sd3"),
    ("sd3", "sd3"),
    ("flux-1", "flux"),
    ("flux1", "flux"),
    ("flux-2", "Flux.2"),
    ("stable-diffusion-v2", "sd2"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v1", "sd1"),
    ("sd_v1", "sd1"),
)
"""(prefix of the entries in sd-scripts' or the model specification's header, family)."""
CLIP_SKIP_FAMILIES = ("sd1", "sd2")
"""Families for which sd-scripts' clip_skip changes the training."""
FAMILY_ENTRIES = ("ss_base_model_version", "modelspec.architecture")
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "sd3": "sd3", "flux": "flux1"}
"""`ss_base_model_version` of each family."""
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sd3": "stable-diffusion-3",
    "flux": "flux-1-dev",
}
"""`modelspec.architecture`, as sd-scripts names them; SD 2.x and Flux have others for v-prediction and schnell."""


def clip_skip_of(metadata: dict[str, str], family: str) -> int:
    """Layers of CLIP that the training skipped, as diffusers counts them; 0 if the file has no valid entry."""
    from_zero = metadata.get("clip_skip")
    value = from_zero or (metadata.get("ss_clip_skip", "") if family in CLIP_SKIP_FAMILIES else "")
    if not (value.isascii() and value.isdigit()) or family == "flux":
        return 0
    return max(int(value) - (0 if from_zero else 1), 0)  # sd-scripts counts from 1


def prediction_type_of(metadata: dict[str, str]) -> str | None:
    """epsilon or v_prediction if the header has it in our notation, sd-scripts' or the model specification's."""
    value = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type")
    if value:
        return {"v": "v_prediction"}.get(value, value)
    return {"True": "v_prediction", "False": "epsilon"}.get(metadata.get("ss_v_parameterization", ""))


Names = dict[str, tuple[str, ...]]
"""Original path -> the layers of diffusers whose rows it contains, in order."""
FLUX_DOUBLE: Names = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE: Names = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
FLUX_OUTER: Names = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
SD3_JOINT: Names = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
SD3_OUTER: Names = {
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
SDXL_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SDXL_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SDXL_MIDDLE = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}


def flux_names(layers: Iterable[str]) -> Names:
    """The original names of `layers`, those of a FluxTransformer2DModel."""
    blocks = {
        "transformer_blocks": ("double_blocks", FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", FLUX_SINGLE),
    }
    return _names_of(layers, blocks, FLUX_OUTER)


def sd3_names(layers: Iterable[str]) -> Names:
    """The original names of `layers`, those of an SD3Transformer2DModel."""
    return _names_of(layers, {"transformer_blocks": ("joint_blocks", SD3_JOINT)}, SD3_OUTER)


def _names_of(layers: Iterable[str], blocks: dict[str, tuple[str, Names]], outer: Names) -> Names:
    """`outer` and the tables of `blocks` ({diffusers' prefix: (original prefix, table)}), limited to `layers`."""
    present = set(layers)
    names_by_path = dict(outer)
    for prefix, (original, table) in blocks.items():
        for index in sorted({name.split(".")[1] for name in present if name.startswith(f"{prefix}.")}, key=int):
            names_by_path |= {
                f"{original}.{index}.{path}": tuple(f"{prefix}.{index}.{name}" for name in names)
                for path, names in table.items()
            }
    return {path: names for path, names in names_by_path.items() if present.issuperset(names)}


def sdxl_name(name: str, layers_per_block: int) -> str:
    """The original name of diffusers' layer `name`; both count resnets and attentions in the same way."""
    if name in SDXL_OUTER:
        return SDXL_OUTER[name]
    stage, *path = name.split(".")
    if stage == "mid_block":
        kind, index, *rest = path
        return ".".join(["middle_block", str(SDXL_MIDDLE[kind, index]), *_inner(kind, rest)])
    block, kind, index, *rest = path
    if stage == "down_blocks":
        first = 1 + int(block) * (layers_per_block + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers_per_block}.0.op"
        return ".".join([f"input_blocks.{first + int(index)}", _place_of(kind), *_inner(kind, rest)])
    first = int(block) * (layers_per_block + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers_per_block}.2.conv"
    return ".".join([f"output_blocks.{first + int(index)}", _place_of(kind), *_inner(kind, rest)])


def _place_of(kind: str) -> str:
    return "0" if kind == "resnets" else "1"


def _inner(kind: str, rest: list[str]) -> list[str]:
    return [SDXL_RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest
