"""JSON of untrusted files: what is refused, and that the error names it."""

import json
import math

import pytest

from foundation.strict_json import JsonError, json_object_read, json_read, text_fault


def refusal(raw: bytes | str, **options: bool) -> str:
    with pytest.raises(JsonError) as caught:
        json_read(raw, "a/config.json", **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("value", [{}, [], "é\U0001f600", 1.5, None, {"a": [{"b": "c"}]}, {"": ""}])
def test_plain_json_is_read_as_it_is(value: object) -> None:
    assert json_read(json.dumps(value), "x") == value
    assert json_read("\ufeff".encode() + json.dumps(value, ensure_ascii=False).encode(), "x") == value


@pytest.mark.parametrize("raw", ['{"a": 1, "b": 2, "a": 1}', '{"x": [{"a": 1, "a": 2}]}', '{"a": 1, "\\u0061": 2}'])
def test_a_duplicate_key_is_named_at_any_depth(raw: str) -> None:
    assert refusal(raw) == "a/config.json: duplicate key 'a'; expected each key once"


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(depth: int, ends: tuple[str, str]) -> None:
    raw = ends[0] * depth + "1" + ends[1] * depth
    assert refusal(raw) == "a/config.json: nested too deeply; expected at most 64 levels"
    assert json_read(ends[0] * 64 + "1" + ends[1] * 64, "x")


@pytest.mark.parametrize("raw", ["[NaN]", "[-Infinity]", "[1e999]", "[-1e999]"])
def test_numbers_that_are_not_finite_are_refused(raw: str) -> None:
    assert "expected a finite number" in refusal(raw)


@pytest.mark.parametrize("raw", [r'{"a": "x\ud800y"}', r'{"\udfff": 1}', r'["\udc00\ud83d"]'])
def test_lone_surrogates_are_refused(raw: str) -> None:
    assert "lone surrogate" in refusal(raw)
    assert refusal(raw).encode()


@pytest.mark.parametrize("raw", [r'{"a": "x\u0000y"}', r'{"\u0000": 1}'])
def test_nul_is_refused_unless_the_caller_allows_it(raw: str) -> None:
    assert "NUL" in refusal(raw) and "\0" not in refusal(raw)
    assert json_read(raw, "x", allow_nul=True)


def test_other_faults_name_the_file() -> None:
    assert refusal(b"\xff{}") == "a/config.json is not UTF-8: byte 0 is 0xff"
    assert refusal("{").startswith("a/config.json is not JSON: ")
    assert refusal("9" * 5000).startswith("a/config.json is not JSON: ")
    with pytest.raises(JsonError, match="x: expected a JSON object, got list"):
        json_object_read("[]", "x")


def test_text_fault_names_what_is_wrong() -> None:
    assert text_fault("plain é \U0001f600") == ""
    assert "NUL" in text_fault("a\0") and "surrogate" in text_fault("\ud83d")
    assert math.isfinite(json_read("1e308", "x"))
