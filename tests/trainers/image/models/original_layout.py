"""Tensors of diffusers' layout under the names that the models' authors use: the inverse of diffusers' converters.

Written from the original repositories (CompVis and Stability for UNet, VAE and MMDiT, OpenCLIP, Black Forest Labs).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def original(base: Path, family: str) -> dict[str, Tensor]:
    """All weights of `base` as its authors would lay them out in one file."""
    vae = vae_original(part(base, "vae"), len(config(base, "vae")["block_out_channels"]))
    if family.startswith("flux"):
        return {
            **flux_original(part(base, "transformer"), "model.diffusion_model."),
            **{f"vae.{name.removeprefix('first_stage_model.')}": tensor for name, tensor in vae.items()},
            **clip_original(part(base, "text_encoder"), "text_encoders.clip_l.transformer."),
            **t5_original(base, "text_encoder_2"),
        }
    if family.startswith("sd3"):
        return {
            **sd3_original(part(base, "transformer"), config(base, "transformer")["num_layers"]),
            **vae,
            **clip_original(part(base, "text_encoder"), "text_encoders.clip_l.transformer."),
            **clip_original(part(base, "text_encoder_2"), "text_encoders.clip_g.transformer."),
            **t5_original(base, "text_encoder_3"),
        }
    tensors = {**unet_original(part(base, "unet"), config(base, "unet")["layers_per_block"]), **vae}
    match family:
        case "sd1":
            tensors |= clip_original(part(base, "text_encoder"), "cond_stage_model.transformer.")
        case "sd2":
            tensors |= open_clip_original(part(base, "text_encoder"), "cond_stage_model.model.")
        case "sdxl":
            tensors |= clip_original(part(base, "text_encoder"), "conditioner.embedders.0.transformer.")
            tensors |= open_clip_original(part(base, "text_encoder_2"), "conditioner.embedders.1.model.")
    return tensors


def t5_original(base: Path, name: str) -> dict[str, Tensor]:
    return {f"text_encoders.t5xxl.transformer.{key}": tensor for key, tensor in part(base, name).items()}


def part(base: Path, name: str) -> dict[str, Tensor]:
    (path,) = (base / name).glob("*.safetensors")
    return load_file(path)


def config(base: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((base / name / "config.json").read_text()))


def unet_original(state: Mapping[str, Tensor], layers: int) -> Tensors:
    with_attention = {int(matched[1]) for name in state if (matched := re.match(r"up_blocks\.(\d+)\.attentions", name))}
    return {f"model.diffusion_model.{_unet_name(name, layers, with_attention)}": state[name] for name in state}


def _unet_name(name: str, layers: int, with_attention: set[int]) -> str:
    module, _, kind = name.rpartition(".")
    if module in UNET_OUTER:
        return f"{UNET_OUTER[module]}.{kind}"
    if matched := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = f"middle_block.{2 * int(matched[2]) if matched[1] == 'resnets' else 1}"
        return f"{place}.{_resnet(matched[3]) if matched[1] == 'resnets' else matched[3]}"
    matched = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    assert matched, name
    block, kind, index, rest = int(matched[2]), matched[3], int(matched[4]), matched[5]
    side, first = ("input", block * (layers + 1) + 1) if matched[1] == "down" else ("output", block * (layers + 1))
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if block in with_attention else 1}.{rest}"
    return f"{side}_blocks.{first + index}.{'0.' + _resnet(rest) if kind == 'resnets' else '1.' + rest}"


def _resnet(rest: str) -> str:
    module, _, kind = rest.rpartition(".")
    return f"{RESNET[module]}.{kind}"


def vae_original(state: Mapping[str, Tensor], blocks: int, prefix: str = "first_stage_model.") -> Tensors:
    renamed: Tensors = {}
    for name, tensor in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if matched := re.search(r"mid_block\.attentions\.0\.(.+)\.(weight|bias)$", new):
            new = new.replace(f"mid_block.attentions.0.{matched[1]}", f"mid.attn_1.{VAE_ATTENTION[matched[1]]}")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[prefix + new] = tensor
    return renamed


def clip_original(state: Mapping[str, Tensor], prefix: str) -> Tensors:
    """With the names of transformers below `prefix`, where `text_model.` has always been."""
    return {prefix + _with_model(name): tensor for name, tensor in state.items()}


def open_clip_original(state: Mapping[str, Tensor], prefix: str) -> Tensors:
    named = {_with_model(name): tensor for name, tensor in state.items()}
    renamed: Tensors = {}
    for name, tensor in named.items():
        if name == "text_projection.weight":
            renamed["text_projection"] = tensor.T.contiguous()
        elif matched := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, module, kind = matched.groups()
            if module in OPEN_CLIP:
                renamed[f"transformer.resblocks.{layer}.{OPEN_CLIP[module]}.{kind}"] = tensor
            elif module == "self_attn.q_proj":
                start = f"text_model.encoder.layers.{layer}.self_attn."
                parts = [named[f"{start}{part}_proj.{kind}"] for part in "qkv"]
                renamed[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        else:
            plain = name.removeprefix("text_model.").removeprefix("embeddings.")
            plain = plain.replace("final_layer_norm", "ln_final").replace(
                "position_embedding.weight", "positional_embedding"
            )
            renamed[plain] = tensor
    return {prefix + name: tensor for name, tensor in renamed.items()}


def _with_model(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


SD3_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
SD3_FUSED = {
    "attn.to_q": ("x_block.attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    "attn2.to_q": ("x_block.attn2.qkv", ("attn2.to_q", "attn2.to_k", "attn2.to_v")),
    "attn.add_q_proj": ("context_block.attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
}


def sd3_original(state: Mapping[str, Tensor], num_layers: int, prefix: str = "model.diffusion_model.") -> Tensors:
    renamed: Tensors = {"pos_embed": state["pos_embed.pos_embed"]}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in SD3_OUTER:
            renamed[f"{SD3_OUTER[module]}.{kind}"] = tensor
        elif module == "norm_out.linear":
            renamed[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(tensor)
        elif matched := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module):
            layer, inner = int(matched[1]), matched[2]
            start = f"transformer_blocks.{layer}."
            if inner in SD3_BLOCK:
                last = layer == num_layers - 1 and inner == "norm1_context.linear"
                renamed[f"joint_blocks.{layer}.{SD3_BLOCK[inner]}.{kind}"] = swapped(tensor) if last else tensor
            elif inner in SD3_FUSED:
                block, ends = SD3_FUSED[inner]
                renamed[f"joint_blocks.{layer}.{block}.{kind}"] = torch.cat([state[f"{start}{e}.{kind}"] for e in ends])
    return {prefix + name: tensor for name, tensor in renamed.items()}


def swapped(tensor: Tensor) -> Tensor:
    """Scale and shift lie the other way round in the original."""
    scale, shift = tensor.chunk(2, dim=0)
    return torch.cat([shift, scale], dim=0)


FLUX_OUTER = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
FLUX_DOUBLE = {
    "norm1.linear.weight": "img_mod.lin.weight",
    "norm1.linear.bias": "img_mod.lin.bias",
    "norm1_context.linear.weight": "txt_mod.lin.weight",
    "norm1_context.linear.bias": "txt_mod.lin.bias",
    "attn.to_out.0.weight": "img_attn.proj.weight",
    "attn.to_out.0.bias": "img_attn.proj.bias",
    "attn.to_add_out.weight": "txt_attn.proj.weight",
    "attn.to_add_out.bias": "txt_attn.proj.bias",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "ff.net.0.proj.weight": "img_mlp.0.weight",
    "ff.net.0.proj.bias": "img_mlp.0.bias",
    "ff.net.2.weight": "img_mlp.2.weight",
    "ff.net.2.bias": "img_mlp.2.bias",
    "ff_context.net.0.proj.weight": "txt_mlp.0.weight",
    "ff_context.net.0.proj.bias": "txt_mlp.0.bias",
    "ff_context.net.2.weight": "txt_mlp.2.weight",
    "ff_context.net.2.bias": "txt_mlp.2.bias",
}
FLUX_SINGLE = {
    "norm.linear.weight": "modulation.lin.weight",
    "norm.linear.bias": "modulation.lin.bias",
    "proj_out.weight": "linear2.weight",
    "proj_out.bias": "linear2.bias",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}


def flux_original(state: Mapping[str, Tensor], prefix: str = "") -> Tensors:
    renamed: Tensors = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in FLUX_OUTER:
            renamed[f"{FLUX_OUTER[module]}.{kind}"] = tensor
        elif module == "norm_out.linear":
            renamed[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(tensor)
        elif matched := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", name):
            renamed |= _flux_block(state, name, "single" if matched[1] else "double", matched[2], matched[3])
    return {prefix + name: tensor for name, tensor in renamed.items()}


def _flux_block(state: Mapping[str, Tensor], name: str, stream: str, index: str, inner: str) -> Tensors:
    names = FLUX_SINGLE if stream == "single" else FLUX_DOUBLE
    place, start = f"{stream}_blocks.{index}.", name.removesuffix(inner)
    if inner in names:
        return {place + names[inner]: state[name]}
    kind = inner.rpartition(".")[2]
    ends: tuple[str, ...]
    if stream == "single":
        ends, block = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "linear1"
    elif inner.startswith("attn.to_"):
        ends, block = ("attn.to_q", "attn.to_k", "attn.to_v"), "img_attn.qkv"
    else:
        ends, block = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "txt_attn.qkv"
    return {f"{place}{block}.{kind}": torch.cat([state[f"{start}{end}.{kind}"] for end in ends])}
