"""Dream (Ye et al. 2025): a Qwen2 that sees both sides and whose logits are shifted right; the same tensor names."""

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM

from trainers.text.models.causal import full_attention_check, strip_buffers
from trainers.text.models.family import SpecialIds, TextFamily, same_name


def config_of(raw: dict[str, Any]) -> Qwen2Config:
    plain = {key: value for key, value in raw.items() if key not in ("model_type", "architectures", "auto_map")}
    config = Qwen2Config.from_dict(plain)
    full_attention_check(config)
    return config


def original_config(config: Any) -> dict[str, Any]:
    """As Dream's own files are: the rope's base at the top, where older tools look for it."""
    raw: dict[str, Any] = config.to_dict()
    rope = raw.pop("rope_parameters")
    kept = {key: value for key, value in raw.items() if key not in ("diffusion", "is_causal", "layer_types")}
    return kept | {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
    }


DREAM = TextFamily(
    name="dream",
    title="Dream",
    model_class=Qwen2ForCausalLM,
    config_of=config_of,
    native_name=strip_buffers,
    original_name=same_name,
    original_config=original_config,
    tokenizer_class="Qwen2Tokenizer",
    ids=SpecialIds(mask=151666, eos=151643, pad=151643, bos=151665),
    mask_token="<|mask|>",
    bos_token="<|beginoftext|>",
    shift=True,
)
