"""adapter_config.json from strangers has bounded values and nothing that libraries look up; headers name families."""

from typing import Any

import pytest

from formats.models.adaptors import ARCHITECTURES, FAMILY_PREFIXES, VERSIONS, adaptor_config_clean
from formats.models.configs import ConfigError
from formats.models.image_families import FAMILIES

PEFT: dict[str, Any] = {
    "alpha_pattern": {"^model.layers.0.mlp.up_proj": 8},
    "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "evil.module"},
    "base_model_name_or_path": "/etc/passwd",
    "bias": "none",
    "lora_alpha": 16,
    "peft_type": "LORA",
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj"],
    "trainable_token_indices": {"embed_tokens": [5]},
    "use_rslora": False,
}


def test_unknown_keys_of_an_adaptor_config_are_dropped() -> None:
    values, ignored = adaptor_config_clean(PEFT, "adapter_config.json")
    assert set(values) == {"alpha_pattern", "lora_alpha", "peft_type", "trainable_token_indices", "use_rslora"}
    assert {"auto_mapping", "base_model_name_or_path", "target_modules"} <= set(ignored)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", "16"),
        ("lora_alpha", True),
        ("lora_alpha", -1),
        ("alpha_pattern", "/etc/passwd"),
        ("alpha_pattern", {"q": "x"}),
        ("trainable_token_indices", [-1]),
        ("trainable_token_indices", {"a": ["/etc/passwd"]}),
        ("rank_pattern", {"q": 0}),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"adapter_config.json: {key} is "):
        adaptor_config_clean(PEFT | {key: value}, "adapter_config.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_a_family_in_headers_are_recognised_as_that_family(family: str) -> None:
    for name in (VERSIONS[family], ARCHITECTURES[family]):
        assert next(named for prefix, named in FAMILY_PREFIXES if name.startswith(prefix)) == family
