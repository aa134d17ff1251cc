"""`anneal secret`: written here, read back by nobody."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from cli.completion import SECRETS
from cli.output import Json, connect, print_done, print_rows

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Lower-case letters, digits and underscores.", autocompletion=SECRETS)]


class Kind(StrEnum):
    """Where a trainer finds it: HF_TOKEN, WANDB_API_KEY, or ANNEAL_SECRET_<NAME>."""

    HUB = "hub"
    WANDB = "wandb"
    GENERIC = "generic"


@app.command("list")
def secret_list(as_json: Json = False) -> None:
    """Names and kinds; for admins of the project."""
    with connect() as client:
        rows = list(client.pages("secrets"))
    columns = {"name": "name", "kind": "kind", "variable": "variable", "created": "created", "replaced": "rotated"}
    print_rows(rows, columns, as_json=as_json)


@app.command("set")
def secret_set(
    name: Name,
    kind: Annotated[Kind, typer.Option(help="Says which variable a trainer finds it in.")] = Kind.GENERIC,
    as_json: Json = False,
) -> None:
    """Save a value, asked for or read from standard input: never a word of the command line, which others can see."""
    value = value_read()
    with connect() as client:
        saved = client.put(f"secrets/{name}", {"kind": kind.value, "value": value})
    print_done(saved, f"saved {saved['name']}; jobs that name it find it in {saved['variable']}", as_json=as_json)


@app.command("delete")
def secret_delete(name: Name, as_json: Json = False) -> None:
    """Forget a secret; attempts that run keep what they were given."""
    with connect() as client:
        client.delete(f"secrets/{name}")
    print_done({"deleted": name}, f"deleted {name}", as_json=as_json)


def value_read() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Value", hide_input=True, err=True))
    return sys.stdin.read().strip()
