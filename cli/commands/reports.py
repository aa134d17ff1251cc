"""`anneal audit` and `anneal usage`: who changed what in a project, and what fills its storage."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from cli.http import Record
from cli.output import Json, connect, human_bytes, print_json, print_rows, print_table

UUID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
WIDTHS = {"actor": 17, "kind": 20, "object": 18}
"""With the time and the gaps between them, 80 columns."""


def audit(
    object_: Annotated[str | None, typer.Option("--object", help="As in job:<id>, token:<id>, project:<id>.")] = None,
    actor: Annotated[str | None, typer.Option(help="As in user:anna.")] = None,
    kind: Annotated[str | None, typer.Option(help="As in job_cancelled.")] = None,
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="Rows shown.")] = 50,
    as_json: Json = False,
) -> None:
    """Who changed what in the project, newest first; admins only. --json has full ids and the changes."""
    with connect() as client:
        rows = list(islice(client.pages("audit", object=object_, actor=actor, kind=kind, limit=min(most, 200)), most))
    shown = rows if as_json else [fitting(row) for row in rows]
    print_rows(shown, {"at": "at", "who": "actor", "what": "kind", "of": "object"}, as_json=as_json)


def fitting(row: Record) -> Record:
    """A row of 80 columns: whole ids and what was changed are in the JSON."""
    at = f"{row['at'][:10]} {row['at'][11:19]}"
    return {"at": at, **{name: cut(UUID.sub(r"\1", str(row[name])), width) for name, width in WIDTHS.items()}}


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"


def usage(as_json: Json = False) -> None:
    """Storage that the project uses, by kind."""
    with connect() as client:
        report = client.get("usage")
    if as_json:
        print_json(report)
    else:
        total = {"what": "all", "count": "", "size": human_bytes(report["total_bytes"])}
        print_table([*usage_rows(report), total], {"": "what", "count": "count", "size": "size"})


def usage_rows(report: Record) -> Iterator[Record]:
    """A line for each kind of thing; artifacts by their own kinds."""
    for what, size in {**report, **report["artifacts"]}.items():
        if isinstance(size, dict) and "size_bytes" in size:
            yield {"what": what, "count": size["count"], "size": human_bytes(size["size_bytes"])}
