"""Writes docs/parameters.md from the parameters' JSON Schemas.

python -m trainers.contract.params.reference [--check]
"""

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from trainers.contract.params import METHODS
from trainers.contract.params.base import Params

PAGE = Path("docs/parameters.md")
HEAD = """# Parameters

Every parameter of every method, written from the code by `python -m trainers.contract.params.reference`; do not edit by
hand. A parameter that is not listed is refused.
"""
LEAVES = {
    "adaptor": "an adaptor",
    "samples": "samples",
    "dataset": "a version of a dataset",
    "model": "a version of a base model",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainers.contract.params.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is not current")
    arguments_parsed = parser.parse_args(arguments)
    page = reference_page()
    if arguments_parsed.check:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page
        print(f"{PAGE} is {'current' if current else 'not current; run python -m trainers.contract.params.reference'}")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def reference_page() -> str:
    return "\n".join([HEAD, *(_method_section(name, METHODS[name]) for name in sorted(METHODS))])


def _method_section(name: str, params: type[Params]) -> str:
    schema = params.model_json_schema()
    required = set(schema.get("required", []))
    rows = [_row(field, spec, field in required) for field, spec in schema["properties"].items()]
    lines = [
        f"## {name}",
        "",
        params.summary,
        "",
        f"Needs: {', '.join(params.requires) or 'nothing'}. "
        + (f"Takes as well: {', '.join(params.accepts)}. " if params.accepts else "")
        + f"Leaves: {LEAVES[params.product]}.",
        "",
        "| name | type | default | range | meaning |",
        "|---|---|---|---|---|",
        *rows,
    ]
    if rules := cross_field_rules(params):
        lines += ["", "Rules between fields:", "", *(f"- {rule}" for rule in rules)]
    return "\n".join([*lines, ""])


def cross_field_rules(params: type[Params]) -> list[str]:
    """The docstring lines of the class's model validators: one rule a line."""
    validators = params.__pydantic_decorators__.model_validators.values()
    texts = [inspect.getdoc(getattr(params, validator.cls_var_name)) or "" for validator in validators]
    return [line.strip().removeprefix("- ") for text in texts for line in text.splitlines() if line.strip()]


def _row(name: str, spec: dict[str, Any], required: bool) -> str:
    default = "required" if required else _value(spec.get("default"))
    cells = [f"`{name}`", type_name(spec), default, range_text(spec), spec.get("description", "")]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return '""' if value == "" else f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def type_name(spec: dict[str, Any]) -> str:
    """A JSON Schema type in words: `integer or none`, `list of number`, `one of a, b`."""
    if "anyOf" in spec:
        return " or ".join(type_name(part) for part in spec["anyOf"])
    if "enum" in spec:
        return "one of " + ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    if spec.get("type") == "array":
        return f"list of {type_name(spec.get('items', {}))}"
    return {"null": "none", "string": "text"}.get(str(spec.get("type", "any")), str(spec.get("type", "any")))


def range_text(spec: dict[str, Any]) -> str:
    """Bounds in words: `1 to 1000`, `above 0, up to 1`, `0 to below 1`, `multiple of 8`, `1 to 100 characters`."""
    for part in spec.get("anyOf", []):
        if text := range_text(part):
            return text
    words = [_bounds(spec)]
    if "multipleOf" in spec:
        words.append(f"multiple of {spec['multipleOf']}")
    if "maxLength" in spec:
        words.append(f"{spec.get('minLength', 0)} to {spec['maxLength']} characters")
    elif spec.get("minLength"):
        words.append("not empty")
    if "pattern" in spec:
        words.append(f"like `{spec['pattern']}`")
    return ", ".join(filter(None, words))


def _bounds(spec: dict[str, Any]) -> str:
    low = _number(spec["minimum"]) if "minimum" in spec else ""
    if "exclusiveMinimum" in spec:
        low = f"above {_number(spec['exclusiveMinimum'])}"
    high = _number(spec["maximum"]) if "maximum" in spec else ""
    if "exclusiveMaximum" in spec:
        high = f"below {_number(spec['exclusiveMaximum'])}"
    if low and high:
        return f"{low} to {high}"
    if high:
        return high if high.startswith("below") else f"up to {high}"
    return low if not low or low.startswith("above") else f"{low} or more"


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
