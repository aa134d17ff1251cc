"""`anneal worker`, `usage` and `audit`: the hosts that train, what fills the storage, who changed what."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape

from cli.completion import WORKERS
from cli.errors import CliError
from cli.http import Client, Record
from cli.output import Json, connect, human_bytes, out, print_done, print_json, print_record, print_rows, print_table

app = typer.Typer(no_args_is_help=True)
Worker = Annotated[
    str, typer.Argument(help="Id of the worker, its first characters, or its host's name.", autocompletion=WORKERS)
]
KEYS = ("id", "host", "state", "quarantine", "pools", "slots", "free_slots", "accelerators", "labels", "last_seen")


@app.command("list")
def worker_list(as_json: Json = False) -> None:
    """Worker hosts: slots, accelerators, last contact."""
    with connect() as client:
        rows = list(client.pages("workers"))
    if as_json:
        print_json(rows)
    else:
        columns = {"id": "short", "host": "host", "state": "state", "pools": "pools", "free": "free"}
        print_table([shown(row) for row in rows], columns | {"accelerators": "owns", "last seen": "last_seen"})


@app.command("show")
def worker_show(worker: Worker, as_json: Json = False) -> None:
    """One worker."""
    with connect() as client:
        worker_row = worker_find(client, worker)
    if as_json:
        print_json(worker_row)
    else:
        print_record(shown(worker_row), KEYS)


@app.command("drain")
def worker_drain(
    worker: Worker,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
    as_json: Json = False,
) -> None:
    """Drain a worker: no new jobs; running ones save a checkpoint and are queued again. A restart ends the drain."""
    with connect() as client:
        path = f"workers/{worker_find(client, worker)['id']}/drain"
        drained = client.request("DELETE", path).json() if undo else client.post(path)
    done = f"worker {drained['host']} takes jobs again" if undo else f"worker {drained['host']} is draining"
    print_done(drained, done, as_json=as_json)


@app.command("release")
def worker_release(worker: Worker, as_json: Json = False) -> None:
    """End a worker's quarantine, once the cause that `worker show` names is fixed."""
    with connect() as client:
        released = client.post(f"workers/{worker_find(client, worker)['id']}/release")
    if as_json:
        print_json(released)
    else:
        out.print(f"worker {escape(released['host'])} is given jobs again")


def worker_find(client: Client, reference: str) -> Record:
    """Finds one worker by id prefix or host. Raises CliError that lists the choices."""
    rows = list(client.pages("workers"))
    matches = [row for row in rows if row["id"].startswith(reference) or row["host"] == reference]
    if len(matches) == 1:
        return matches[0]
    choices = ", ".join(f"{row['id'][:8]} ({row['host']})" for row in matches or rows) or "none"
    raise CliError(f"expected one worker {reference!r}, found {len(matches)}", f"Workers: {choices}.", code="not_found")


def shown(worker: Record) -> Record:
    reason = worker.get("quarantine") or {}
    states = {"gone": worker["gone"], "quarantined": worker.get("quarantined_at"), "draining": worker["draining"]}
    state = next((name for name, holds in states.items() if holds), "serving")
    return {
        **worker,
        "short": worker["id"][:8],
        "state": state,
        "quarantine": f"{reason['code']}: {reason['message']} {reason['hint']}" if reason else None,
        "free": f"{worker['free_slots']} of {worker['slots']}",
        "owns": str(len(worker["accelerators"])),
    }


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
