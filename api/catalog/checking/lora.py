"""A LoRA that lies among the files of a base model: it is no part of it, but it must not be of another one."""

from api.catalog.checking.report import Notices, Refused
from formats.lora_keys import DOWN, KOHYA_ALPHA, UP
from formats.safetensors_header import Tensors

KINDS = (*DOWN, *UP, KOHYA_ALPHA)


def is_lora(tensors: Tensors) -> bool:
    return any(title.endswith(DOWN) for title in tensors) and all(title.endswith(KINDS) for title in tensors)


def lora_check(name: str, tensors: Tensors, base: dict[str, Tensors], notices: Notices) -> None:
    """`base`: the model's own tensors by part. Raises Refused with both shapes where a module does not fit."""
    modules = {_stem(title): tensor for title, tensor in tensors.items() if title.endswith(DOWN)}
    known = {_flat(f"{part}.{title}"): tensor for part, own in base.items() for title, tensor in own.items()}
    for module, down in modules.items():
        weight = known.get(_flat(f"{module}.weight"))
        up = next((tensors[module + end] for end in UP if module + end in tensors), None)
        if up is None or len(down.shape) < 2 or len(up.shape) < 2 or up.shape[1] != down.shape[0]:
            raise Refused(f"{name}: module {module[:200]!r} has no up matrix of the rank of its down matrix")
        widths = (up.shape[0], down.shape[1])
        if weight is not None and weight.shape[:2] != widths:
            raise Refused(
                f"{name}: module {module[:200]!r} is made for a weight of {list(widths)}, this base model's has "
                f"{list(weight.shape[:2])}; the LoRA does not fit"
            )
    count = f"{len(modules)} module{'s' if len(modules) > 1 else ''}"
    notices.add("a LoRA, not a part of the model", f"{name} holds a LoRA of {count}; it is kept, not used", file=name)


def _stem(title: str) -> str:
    return next(title.removesuffix(end) for end in KINDS if title.endswith(end))


def _flat(title: str) -> str:
    """kohya's names have _ for each dot, and say lora_unet."""
    return title.replace(".", "_").removeprefix("lora_")
