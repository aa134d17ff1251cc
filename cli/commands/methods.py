"""`anneal method`."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.completion import METHODS
from cli.http import Record
from cli.output import Json, connect, out, print_json, print_table

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def method_list(as_json: Json = False) -> None:
    """Methods that a job can run."""
    with connect() as client:
        methods = client.get("methods")
    rows = methods["results"] if isinstance(methods, dict) else methods
    if as_json:
        print_json(rows)
    else:
        print_table(rows, {"method": "method", "makes": "product", "needs": "requires", "": "summary"})


@app.command("show")
def method_show(
    method: Annotated[str, typer.Argument(help="For instance image_lora.", autocompletion=METHODS)],
    as_json: Json = False,
) -> None:
    """Every parameter of a method: type, default, range, meaning."""
    with connect() as client:
        schema = client.get(f"methods/{method}")
    if as_json:
        print_json(schema)
        return
    out.print(f"[bold]{schema['method']}[/bold]  {escape(schema['summary'])}")
    out.print(f"needs {', '.join(schema['requires']) or 'nothing'}; makes {schema['product']}\n")
    required = schema["schema"].get("required", [])
    for name, field in schema["schema"]["properties"].items():
        parameter_print(field_row(name, field, name in required))


def parameter_print(row: Record) -> None:
    """Two lines: what it can be, and what it means."""
    default = "required" if row["default"] == "required" else f"default {row['default']}"
    facts = ", ".join(filter(None, (row["type"], row["range"], default)))
    out.print(f"[bold]{row['name']}[/bold]  {escape(facts)}", soft_wrap=True)
    if row["help"]:
        out.print(f"    {escape(' '.join(row['help'].split()))}", soft_wrap=True)


def field_row(name: str, field: Record, required: bool) -> Record:
    choices = field.get("anyOf", [field])
    bounds = {key: value for choice in choices for key, value in choice.items()}
    return {
        "name": name,
        "type": " or ".join(type_name(choice) for choice in choices),
        "default": "required" if required else repr_value(field.get("default")),
        "range": bounds_text(bounds),
        "help": field.get("description", ""),
    }


def type_name(choice: Record) -> str:
    if "enum" in choice:
        return " | ".join(str(value) for value in choice["enum"])
    name = str(choice.get("type", "any"))
    return "none" if name == "null" else name


def repr_value(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def bounds_text(field: Record) -> str:
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    return " ".join(f"{sign} {field[key]:g}" for key, sign in signs if key in field)
