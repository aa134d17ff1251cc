"""BERT as a diffusion model: its masked-language head predicts any share of masked tokens; 512 positions."""

import re
from typing import Any

from transformers import BertConfig, BertForMaskedLM

from trainers.text.models.family import SpecialIds, TextFamily, same_name

NOT_OURS = re.compile(r"bert\.pooler\.|cls\.seq_relationship\.|bert\.embeddings\.position_ids$")
"""Parts for other tasks, and a buffer that old checkpoints hold."""


def config_of(raw: dict[str, Any]) -> BertConfig:
    return BertConfig.from_dict({k: v for k, v in raw.items() if k not in ("architectures", "auto_map")})


def native_name(name: str) -> str | None:
    """Checkpoints from TensorFlow call a layer norm's weight gamma and its bias beta."""
    if NOT_OURS.match(name):
        return None
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


def original_config(config: Any) -> dict[str, Any]:
    raw: dict[str, Any] = config.to_dict()
    return {k: v for k, v in raw.items() if k not in ("diffusion", "is_causal")}


BERT = TextFamily(
    name="bert",
    title="BERT",
    model_class=BertForMaskedLM,
    config_of=config_of,
    native_name=native_name,
    original_name=same_name,
    original_config=original_config,
    tokenizer_class="BertTokenizer",
    ids=SpecialIds(mask=103, eos=102, pad=0, bos=101),
)
