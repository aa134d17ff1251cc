"""Names of layers in the original networks of Flux, SD3 and SDXL, which sd-scripts trains, and in diffusers.

In Flux and SD3 query, key and value are one layer, so that one original name can stand for several of diffusers'.
"""

from collections.abc import Iterable

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
