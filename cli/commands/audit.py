"""`anneal audit`."""

from itertools import islice
from typing import Annotated

import typer

from cli.output import Json, connect, print_rows


def audit(
    object_: Annotated[str | None, typer.Option("--object", help="As in job:<id>, token:<id>, project:<id>.")] = None,
    actor: Annotated[str | None, typer.Option(help="As in user:anna.")] = None,
    kind: Annotated[str | None, typer.Option(help="As in job_cancelled.")] = None,
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="Rows shown.")] = 50,
    as_json: Json = False,
) -> None:
    """Who changed what in the project, the newest first; for its admins."""
    with connect() as client:
        rows = list(islice(client.pages("audit", object=object_, actor=actor, kind=kind, limit=min(most, 200)), most))
    print_rows(rows, {"at": "at", "who": "actor", "what": "kind", "of": "object", "": "data"}, as_json=as_json)
