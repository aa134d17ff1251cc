"""Parts of every model card: its tables and quoted strings."""

import json
from collections.abc import Mapping
from typing import Any


def parameters_table(params: dict[str, Any], effective: Mapping[str, Any] | None = None) -> str:
    """Every parameter of the training, as JSON; where it is null, its value in `effective`."""
    used = {name: (effective or {}).get(name) if value is None else value for name, value in params.items()}
    return table("Training", [(name, json.dumps(value, ensure_ascii=False)) for name, value in used.items()])


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """A Markdown section; empty without rows."""
    if not rows:
        return ""
    body = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    return f"## {title}\n\n| name | value |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def base_name(manifest: dict[str, Any]) -> str:
    return str(manifest["inputs"]["model"]["name"])


def quoted(text: str) -> str:
    """As a string of JSON, which is one of YAML and of Python too."""
    return json.dumps(text, ensure_ascii=False)
