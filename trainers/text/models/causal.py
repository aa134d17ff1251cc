"""Causal checkpoints that become diffusion models: Llama, Qwen2, Qwen3, under their own names.

The network is the same; only what a token may see changes (Gong et al. 2024, "Scaling diffusion language models via
adaptation from autoregressive models").
"""

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.models.family import TextFamily, same_name


def strip_buffers(name: str) -> str | None:
    """Old checkpoints hold the rope's frequencies, which are computed."""
    return None if name.endswith("rotary_emb.inv_freq") else name


def full_attention_check(config: Any) -> None:
    """A window over the past has no meaning for a model that sees both sides."""
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, "config.json: use_sliding_window is true, expected false")


def _family(name: str, title: str, config_class: Any, model_class: Any, tokenizer_class: str) -> TextFamily:
    def config_of(raw: dict[str, Any]) -> Any:
        config = config_class.from_dict({k: v for k, v in raw.items() if k not in ("architectures", "auto_map")})
        full_attention_check(config)
        return config

    def original_config(config: Any) -> dict[str, Any]:
        raw: dict[str, Any] = config.to_dict()
        return {k: v for k, v in raw.items() if k not in ("diffusion", "is_causal")}

    return TextFamily(
        name=name,
        title=title,
        model_class=model_class,
        config_of=config_of,
        native_name=strip_buffers,
        original_name=same_name,
        original_config=original_config,
        tokenizer_class=tokenizer_class,
    )


LLAMA = _family("llama", "Llama", LlamaConfig, LlamaForCausalLM, "PreTrainedTokenizerFast")
QWEN2 = _family("qwen2", "Qwen2", Qwen2Config, Qwen2ForCausalLM, "Qwen2Tokenizer")
QWEN3 = _family("qwen3", "Qwen3", Qwen3Config, Qwen3ForCausalLM, "Qwen2Tokenizer")
