"""`anneal job`: again, edited, deleted."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.http import Record, without_none
from cli.output import Json, connect, print_done
from cli.requests import JobRef, Settings, method_schema, settings_parse, takes_request

Key = Annotated[str, typer.Option(help="Idempotency key: the same key gives the same job.")]


@takes_request
def job_rerun(
    job: JobRef,
    name: Annotated[str | None, typer.Option(help="Name of the new job.")] = None,
    set_: Settings = None,
    request: Record = {},  # noqa: B006 stands for the shared options
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Queue a job again on the same input versions; options override its parameters."""
    with connect() as client:
        body: dict[str, Any] = without_none({"name": name, **request})
        if set_:
            method = client.get(f"jobs/{job}")["method"]
            body["params"] = settings_parse(set_, method_schema(client, method))
        rerun = client.post(f"jobs/{job}/rerun", body, headers={"Idempotency-Key": key} if key else {})
    sentence = f"queued {escape(rerun['name'])}, job {rerun['id']}\nfollow it with: anneal job watch {rerun['id'][:8]}"
    print_done(rerun, sentence, as_json=as_json)


def job_priority(
    job: JobRef, priority: Annotated[int, typer.Argument(help="Higher goes first.")], as_json: Json = False
) -> None:
    """Change the priority of a queued job."""
    edit(job, {"priority": priority}, as_json=as_json)


def job_note(
    job: JobRef,
    text: Annotated[str | None, typer.Argument(help="New notes; replace the old ones.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="All labels of the job; may be repeated.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Remove all labels.")] = False,
    as_json: Json = False,
) -> None:
    """Set notes and labels of a job; what is omitted stays unchanged."""
    edit(job, {"notes": text, "labels": [] if no_labels else label or None}, as_json=as_json)


def job_delete(job: JobRef, as_json: Json = False) -> None:
    """Delete an ended job with its log, curves and files; delete its adaptor first."""
    with connect() as client:
        client.delete(f"jobs/{job}")
    print_done({"deleted": job}, f"deleted job {escape(job)}", as_json=as_json)


def edit(job: str, changes: Record, *, as_json: bool) -> None:
    with connect() as client:
        answer: Record = client.request("PATCH", f"jobs/{job}", json=without_none(changes)).json()
    print_done(answer, f"changed job {escape(answer['name'])}", as_json=as_json)
