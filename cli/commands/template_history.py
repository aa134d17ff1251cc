"""`anneal template`: checked, cloned, and what it said before."""

from typing import Annotated

import typer
from rich.markup import escape

from cli.completion import TEMPLATES
from cli.errors import CliError
from cli.http import Record
from cli.output import Json, connect, err, out, print_done, print_json, print_rows

Ref = Annotated[
    str, typer.Argument(help="Name of the template, or name@version.", autocompletion=TEMPLATES, metavar="NAME")
]
Name = Annotated[str, typer.Argument(help="Name of the template.", autocompletion=TEMPLATES)]


def template_validate(name: Ref, as_json: Json = False) -> None:
    """Say whether a job of it would still find all that it names; exit with 1 where not."""
    with connect() as client:
        verdict: Record = client.post(f"templates/{name}/validate")
    if as_json:
        print_json(verdict)
    if not verdict["valid"]:
        error = CliError(verdict["message"], code="invalid")
        error.fields = verdict["fields"]
        raise error
    if not as_json:
        for warning in verdict["warnings"]:
            err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
        out.print(f"{escape(name)} is good")


def template_clone(
    name: Ref, new: Annotated[str, typer.Argument(help="Name of the new template.")], as_json: Json = False
) -> None:
    """Make a template of its own that starts with what this one says."""
    with connect() as client:
        made = client.post(f"templates/{name}/clone", {"name": new})
    print_done(made, f"cloned {escape(name)} to {escape(new)}", as_json=as_json)


def template_versions(name: Name, as_json: Json = False) -> None:
    """What it said, version by version, the newest first; `show NAME@VERSION` shows one."""
    with connect() as client:
        rows = list(client.pages(f"templates/{name}/versions"))
    columns = {"version": "version", "by": "actor", "at": "updated", "dataset": "dataset", "params": "params"}
    print_rows(rows, columns, as_json=as_json)


def template_restore(
    name: Name, version: Annotated[int, typer.Argument(help="Its number.")], as_json: Json = False
) -> None:
    """Make what an older version said the newest version."""
    with connect() as client:
        restored = client.post(f"templates/{name}/restore", {"version": version})
    sentence = f"{escape(name)}@{restored['version']} says what version {version} said"
    print_done(restored, sentence, as_json=as_json)
