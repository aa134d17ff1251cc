from pathlib import Path

import pytest

from cli.errors import CliError
from cli.requests import settings_parse, yaml_load


def test_yaml_words_stay_text_and_scientific_numbers_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("mixed_precision: no\nlearning_rate: 1e-4\nrandom_flip: true\nsnr: .5\nrank: 8\n")
    result = yaml_load(tmp_path / "t.yaml")
    assert result == {"mixed_precision": "no", "learning_rate": 1e-4, "random_flip": True, "snr": 0.5, "rank": 8}
    assert type(result["rank"]) is int


@pytest.mark.parametrize("content", ["- a\n", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(CliError, match=r"bad\.yaml"):
        yaml_load(tmp_path / "bad.yaml")


def test_settings_are_json_where_they_read_as_json() -> None:
    pairs = ["lora_r=16", "learning_rate=1e-4", "random_flip=true", "snr_gamma=null", "mixed_precision=no", "a=b=c"]
    assert settings_parse(pairs) == {
        "lora_r": 16,
        "learning_rate": 1e-4,
        "random_flip": True,
        "snr_gamma": None,
        "mixed_precision": "no",
        "a": "b=c",
    }


def test_a_text_field_stays_text_though_it_reads_as_a_number() -> None:
    schema = {"properties": {"trigger_word": {"type": "string"}}}
    assert settings_parse(["trigger_word=42"], schema) == {"trigger_word": "42"}


LISTS = {
    "properties": {
        "scales": {"type": "array", "items": {"type": "number"}},
        "prompts": {"type": "array", "items": {"type": "string"}},
        "word": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "length": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }
}


@pytest.mark.parametrize(
    ("pairs", "result"),
    [
        (["scales=0.5,1"], {"scales": [0.5, 1]}),
        (["scales=[0.5, 1]"], {"scales": [0.5, 1]}),
        (["scales=2"], {"scales": [2]}),
        (["scales="], {"scales": []}),
        (["prompts=one, two", "prompts=3"], {"prompts": ["one, two", "3"]}),
        (['prompts=["a", "b"]'], {"prompts": ["a", "b"]}),
        (["word=5"], {"word": "5"}),
        (["word=null"], {"word": None}),
        (["length=5"], {"length": 5}),
    ],
)
def test_lists_and_what_may_be_none_are_read_by_their_schema(pairs: list[str], result: dict[str, object]) -> None:
    assert settings_parse(pairs, LISTS) == result


def test_a_setting_without_equals_is_wrong_usage() -> None:
    with pytest.raises(CliError, match="key=value") as caught:
        settings_parse(["lora_r"])
    assert caught.value.exit_code == 2
