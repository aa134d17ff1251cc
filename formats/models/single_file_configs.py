"""Configurations of a single-file checkpoint's parts: sizes from its tensors' shapes, the rest facts of the family.

The facts are those of the published models. Narrow models (tests) have the same code path: a head is 64 wide or the
whole width, a norm has 32 groups or one a channel.
"""

import math
import re
from collections.abc import Iterable, Mapping

from formats.models.image_families import FAMILIES, T5
from formats.models.single_file import ACTIVATIONS, Checkpoint, CheckpointError, Config, Shaped

Shapes = Mapping[str, tuple[int, ...]]
HEAD_WIDTH = 64
"""Of all attention but that of SD 1.x, which has 8 heads, and of Flux, whose norms say it."""
SD1_HEADS = 8
NORM_GROUPS = 32
NUM_SIZES = 6
"""SDXL: sizes that are embedded beside the pooled text."""
POOLED_WIDTH = 1280
"""SDXL: of OpenCLIP-G's projection."""
SD2_TEXT_LAYERS = 23
"""Of the 24 of OpenCLIP-H; the network reads the states before the last."""
SAMPLE_SIZE = {"sd1": 64, "sd2": 96, "sdxl": 128, "sd3": 128}
"""Of latents."""
VAE_FACTS: dict[str, Config] = {
    "sd1": {"sample_size": 512, "scaling_factor": 0.18215},
    "sd2": {"sample_size": 768, "scaling_factor": 0.18215},
    "sdxl": {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "sd3": {"sample_size": 1024, "scaling_factor": 1.5305, "shift_factor": 0.0609, "force_upcast": True},
    "flux": {"sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": True},
}
OPEN_CLIP = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}
"""Text encoders under the names of OpenCLIP, whose query, key and value are one matrix."""


def configs_of(checkpoint: Checkpoint, tensors: Mapping[str, Shaped]) -> dict[str, Config]:
    """config.json of each part in the file. Raises CheckpointError that names an incomplete part."""
    return {part: _config(checkpoint, part, tensors) for part in checkpoint.parts}


def _config(checkpoint: Checkpoint, part: str, tensors: Mapping[str, Shaped]) -> Config:
    prefix = checkpoint.parts[part]
    shapes = {
        name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(prefix)
    }
    whose = f"the file's {part} is not that of {checkpoint.title}"
    try:
        if part == "unet":
            return _unet(checkpoint.family, shapes, _pooled_width(checkpoint, tensors))
        if part == "vae":
            return _vae(checkpoint.family, shapes)
        if part == "transformer":
            return _sd3(shapes) if checkpoint.family == "sd3" else _flux(shapes)
        return _text_encoder(checkpoint.family, part, shapes)
    except KeyError as error:
        raise CheckpointError(f"{whose}: it lacks {error.args[0]}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{whose}: {error}", error.hint) from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise CheckpointError(f"{whose}: a tensor has another number of dimensions") from None


def _unet(family: str, shapes: Shapes, pooled_width: int) -> Config:
    levels = _levels(shapes)
    widths, depths = [width for width, _ in levels], [depth for _, depth in levels]
    crosses = [depth > 0 for depth in depths]
    middle = _count(shapes, "middle_block.1.transformer_blocks.")
    if crosses[-1] and depths[-1] != middle:
        raise CheckpointError(f"its middle has {middle} transformer blocks, the level before it {depths[-1]}")
    depths = [*(depth or 1 for depth in depths[:-1]), middle]
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": SD1_HEADS if family == "sd1" else [_heads(width) for width in widths],
        "block_out_channels": widths,
        "cross_attention_dim": _of(shapes, r"\.attn2\.to_k\.weight$")[1],
        "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crosses],
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "layers_per_block": _layers_per_level(shapes),
        "norm_num_groups": min(NORM_GROUPS, *widths),
        "out_channels": shapes["out.2.weight"][0],
        "sample_size": SAMPLE_SIZE[family],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crosses)],
    }
    if len(_of(shapes, r"\.proj_in\.weight$")) == 2:
        config["use_linear_projection"] = True
    if any(depth != 1 for depth in depths):
        config["transformer_layers_per_block"] = depths
    if family == "sd2":
        config["upcast_attention"] = True
    if family == "sdxl":
        condition = shapes["label_emb.0.0.weight"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (condition - pooled_width) // NUM_SIZES,
            "projection_class_embeddings_input_dim": condition,
        }
    return config


def _levels(shapes: Shapes) -> list[tuple[int, int]]:
    """(width, transformer blocks) of each resolution, finest first. Raises CheckpointError if layers differ."""
    levels: list[set[tuple[int, int]]] = [set()]
    for index in range(1, _count(shapes, "input_blocks.")):
        start = f"input_blocks.{index}."
        if f"{start}0.op.weight" in shapes:
            levels.append(set())
        else:
            width = shapes[f"{start}0.out_layers.3.weight"][0]
            levels[-1].add((width, _count(shapes, f"{start}1.transformer_blocks.")))
    if odd := [index for index, layers in enumerate(levels) if len(layers) != 1]:
        raise CheckpointError(f"the layers of its level {odd[0]} differ, as those of distilled models do")
    return [layers.pop() for layers in levels]


def _layers_per_level(shapes: Shapes) -> int:
    downsamplings = sum(name.endswith(".0.op.weight") for name in shapes)
    layers = _count(shapes, "input_blocks.") - 1 - downsamplings
    if layers % (downsamplings + 1):
        raise CheckpointError(f"it has {layers} layers at {downsamplings + 1} levels; expected as many at each")
    return layers // (downsamplings + 1)


def _pooled_width(checkpoint: Checkpoint, tensors: Mapping[str, Shaped]) -> int:
    prefix = checkpoint.parts.get("text_encoder_2", "")
    projection = tensors.get(f"{prefix}text_projection")
    return int(projection.shape[1]) if prefix and projection is not None else POOLED_WIDTH


def _vae(family: str, shapes: Shapes) -> Config:
    levels = _count(shapes, "encoder.down.")
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    config: Config = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "layers_per_block": _count(shapes, "encoder.down.0.block."),
        "norm_num_groups": min(NORM_GROUPS, *widths),
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **VAE_FACTS[family],
    }
    for name in ("quant_conv", "post_quant_conv"):
        if f"{name}.weight" not in shapes:
            config[f"use_{name}"] = False
    return config


def _sd3(shapes: Shapes) -> Config:
    width, joint_width = shapes["context_embedder.weight"]
    patch = shapes["x_embedder.proj.weight"][-1]
    layers = _count(shapes, "joint_blocks.")
    dual = [index for index in range(layers) if f"joint_blocks.{index}.x_block.attn2.qkv.weight" in shapes]
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head_width = norm[0] if norm else min(HEAD_WIDTH, width)
    if width % head_width:
        raise CheckpointError(f"it is {width} wide with heads of {head_width}; expected a multiple")
    return {
        "_class_name": "SD3Transformer2DModel",
        "attention_head_dim": head_width,
        "caption_projection_dim": width,
        "in_channels": shapes["x_embedder.proj.weight"][1],
        "joint_attention_dim": joint_width,
        "num_attention_heads": width // head_width,
        "num_layers": layers,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "patch_size": patch,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "sample_size": SAMPLE_SIZE["sd3"],
        **({"dual_attention_layers": dual} if dual else {}),
        **({"qk_norm": "rms_norm"} if norm else {}),
    }


def _flux(shapes: Shapes) -> Config:
    width = shapes["img_in.weight"][0]
    head_width = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    if width % head_width or head_width % 32:
        raise CheckpointError(f"it is {width} wide with heads of {head_width}; expected heads of 128")
    side = head_width * 7 // 16
    return {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": head_width,
        "axes_dims_rope": [head_width - 2 * side, side, side],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "in_channels": shapes["img_in.weight"][1],
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "num_attention_heads": width // head_width,
        "num_layers": _count(shapes, "double_blocks."),
        "num_single_layers": _count(shapes, "single_blocks."),
        "patch_size": 1,
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
    }


def _text_encoder(family: str, part: str, shapes: Shapes) -> Config:
    activation = ACTIVATIONS[family][part]
    if FAMILIES[family].parts[part] == T5:
        return _t5(shapes)
    if OPEN_CLIP.get(family) == part:
        return _open_clip(family, shapes)
    shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    words, width = shapes["embeddings.token_embedding.weight"]
    return _clip(
        width=width,
        words=words,
        positions=shapes["embeddings.position_embedding.weight"][0],
        inner=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        layers=_count(shapes, "encoder.layers."),
        projection=shapes.get("text_projection.weight", (width,))[0],
        activation=activation,
    )


def _open_clip(family: str, shapes: Shapes) -> Config:
    words, width = shapes["token_embedding.weight"]
    layers = _count(shapes, "transformer.resblocks.")
    return _clip(
        width=width,
        words=words,
        positions=shapes["positional_embedding"][0],
        inner=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        layers=min(layers, SD2_TEXT_LAYERS) if family == "sd2" else layers,
        projection=width if family == "sd2" else shapes["text_projection"][1],
        activation="gelu",
    )


def _clip(
    *, width: int, words: int, positions: int, inner: int, layers: int, projection: int, activation: str
) -> Config:
    return {
        "model_type": "clip_text_model",
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published; it stands for "the largest id"
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": positions,
        "num_attention_heads": _heads(width),
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": projection,
        "vocab_size": words,
    }


def _t5(shapes: Shapes) -> Config:
    first = "encoder.block.0.layer.0.SelfAttention."
    embedding = "shared.weight" if "shared.weight" in shapes else "encoder.embed_tokens.weight"
    words, width = shapes[embedding]
    buckets, heads = shapes[f"{first}relative_attention_bias.weight"]
    return {
        "model_type": "t5",
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        "d_kv": shapes[f"{first}q.weight"][0] // heads,
        "d_model": width,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-06,
        "num_heads": heads,
        "num_layers": _count(shapes, "encoder.block."),
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": buckets,
        "tie_word_embeddings": False,
        "vocab_size": words,
    }


def _heads(width: int) -> int:
    if width > HEAD_WIDTH and width % HEAD_WIDTH:
        raise CheckpointError(f"it is {width} wide; expected a multiple of {HEAD_WIDTH}")
    return max(1, width // HEAD_WIDTH)


def _count(names: Iterable[str], prefix: str) -> int:
    """Number of numbered modules below `prefix`."""
    return len({name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)})


def _of(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """The shape of the first tensor whose name matches."""
    names = sorted(name for name in shapes if re.search(pattern, name))
    if not names:
        raise KeyError(pattern.replace("\\", "").removesuffix("$"))
    return shapes[names[0]]
