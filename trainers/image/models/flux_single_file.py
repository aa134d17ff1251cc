"""Flux.1's transformer from its authors' names to diffusers', for any width.

diffusers' own converter splits `linear1` at 3072, the width of the published models; the rest is renaming.
"""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
OUTER = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
MODULATION = "final_layer.adaLN_modulation.1"
DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE = {
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
"""Matrices that diffusers keeps apart; the last of `linear1` is what remains after three of the model's width."""
BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")


def flux_convert(tensors: Tensors) -> Tensors:
    """`tensors` under the authors' names, without a prefix. Raises KeyError for a name that Flux.1 has not."""
    width = tensors["img_in.weight"].shape[0]
    converted: Tensors = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module == MODULATION:
            shift, scale = tensor.chunk(2)
            converted[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
        elif block := BLOCK.fullmatch(module):
            converted |= _block(tensor, block[1], int(block[2]), block[3], kind, width)
        else:
            converted[f"{OUTER[module]}.{kind}"] = tensor
    return converted


def _block(tensor: Tensor, stream: str, index: int, module: str, kind: str, width: int) -> Tensors:
    start = f"transformer_blocks.{index}." if stream == "double" else f"single_transformer_blocks.{index}."
    if module not in FUSED:
        renamed = (DOUBLE if stream == "double" else SINGLE)[module]
        return {f"{start}{renamed}.{'weight' if kind == 'scale' else kind}": tensor}
    names = FUSED[module]
    rest = tensor.shape[0] - width * (len(names) - 1)
    parts = torch.split(tensor, [width] * (len(names) - 1) + [rest])
    return {f"{start}{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
