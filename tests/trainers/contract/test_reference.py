from pathlib import Path

import pytest

from trainers.contract.params import METHODS
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.reference import PAGE, cross_field_rules, main, range_text, reference_page, type_name

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_page_is_current() -> None:
    message = "run python -m trainers.contract.params.reference and commit docs/parameters.md"
    assert (ROOT / PAGE).read_text(encoding="utf-8") == reference_page(), message


def test_the_page_has_every_parameter_of_every_method_with_its_help() -> None:
    page = reference_page()
    for params in METHODS.values():
        for name, field in params.model_fields.items():
            assert f"| `{name}` |" in page
            assert field.description, f"{params.__name__}.{name} has no help"
            assert field.description.splitlines()[0].replace("|", "\\|") in page


def test_rules_between_fields_come_from_the_validators() -> None:
    assert any("max_train_steps" in rule for rule in cross_field_rules(ImageLoraParams))


@pytest.mark.parametrize(
    ("field", "kind", "bounds"),
    [
        ("max_train_steps", "integer or none", "1 to 1,000,000"),
        ("adam_beta1", "number", "0 to below 1"),
        ("snr_gamma", "number or none", "above 0 to 100"),
        ("seed", "integer", "0 to below 2^63"),
        ("resolution", "integer", "64 to 1024, multiple of 8"),
        ("center_crop", "boolean", ""),
        ("mixed_precision", "one of `auto`, `no`, `fp16`, `bf16`", ""),
        ("trigger_word", "text", "0 to 100 characters"),
    ],
)
def test_types_and_ranges_are_written_in_words(field: str, kind: str, bounds: str) -> None:
    spec = ImageLoraParams.model_json_schema()["properties"][field]
    assert (type_name(spec), range_text(spec)) == (kind, bounds)


def test_check_fails_where_the_page_is_old_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert not (tmp_path / PAGE).exists()
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert "is current" in capsys.readouterr().out
