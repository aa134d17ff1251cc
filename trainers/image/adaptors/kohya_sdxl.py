"""Names of SDXL's UNet layers in Stability's own network, which sd-scripts trains: input_blocks.4.1...."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
MIDDLE = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}


def sdxl_name(name: str, layers_per_block: int) -> str:
    """`name` as diffusers calls the layer -> as the original does; both count resnets and attentions alike."""
    if name in OUTER:
        return OUTER[name]
    stage, *path = name.split(".")
    if stage == "mid_block":
        kind, index, *rest = path
        return ".".join(["middle_block", str(MIDDLE[kind, index]), *_inner(kind, rest)])
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
    return [RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest
