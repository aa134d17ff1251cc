"""ModernBERT (Warner et al. 2024) as a diffusion model: most layers see a window, every third sees all."""

from typing import Any

from transformers import ModernBertConfig, ModernBertForMaskedLM

from trainers.text.models.family import SpecialIds, TextFamily, same_name


def config_of(raw: dict[str, Any]) -> ModernBertConfig:
    return ModernBertConfig.from_dict({k: v for k, v in raw.items() if k not in ("architectures", "auto_map")})


def original_config(config: Any) -> dict[str, Any]:
    raw: dict[str, Any] = config.to_dict()
    return {k: v for k, v in raw.items() if k not in ("diffusion", "is_causal")}


MODERNBERT = TextFamily(
    name="modernbert",
    title="ModernBERT",
    model_class=ModernBertForMaskedLM,
    config_of=config_of,
    native_name=same_name,
    original_name=same_name,
    original_config=original_config,
    tokenizer_class="PreTrainedTokenizerFast",
    ids=SpecialIds(mask=50284, eos=50282, pad=50283, bos=50281),
)
