"""Names of Flux's layers in Black Forest Labs' own network, where query, key and value are one layer."""

from collections.abc import Iterable

Names = dict[str, tuple[str, ...]]
"""Original path -> the layers of diffusers whose rows it holds, in order."""
DOUBLE: Names = {
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
SINGLE: Names = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
OUTER: Names = {
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


def flux_names(known: Iterable[str]) -> Names:
    """The names of all `known` layers of a FluxTransformer2DModel."""
    blocks = {"transformer_blocks": ("double_blocks", DOUBLE), "single_transformer_blocks": ("single_blocks", SINGLE)}
    return names_of(known, blocks, OUTER)


def names_of(known: Iterable[str], blocks: dict[str, tuple[str, Names]], outer: Names) -> Names:
    """`outer`, and the table of each block of `blocks` ({our prefix: (original prefix, table)}): what `known` has."""
    present = set(known)
    found = dict(outer)
    for ours, (original, table) in blocks.items():
        for index in sorted({name.split(".")[1] for name in present if name.startswith(f"{ours}.")}, key=int):
            found |= {
                f"{original}.{index}.{path}": tuple(f"{ours}.{index}.{name}" for name in names)
                for path, names in table.items()
            }
    return {path: names for path, names in found.items() if present.issuperset(names)}
