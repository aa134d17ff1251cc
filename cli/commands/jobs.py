"""`anneal job`: queue, watch and stop."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.commands import job_changes, job_results
from cli.completion import ADAPTORS, DATASETS, MODELS, TEMPLATES
from cli.downloads import job_log
from cli.errors import CliError, Exit
from cli.http import Client, Record
from cli.output import (
    Json,
    connect,
    err,
    out,
    print_json,
    print_json_line,
    print_record,
    print_rows,
    print_table,
    stdout_write,
)
from cli.requests import JobRef as Job
from cli.requests import Settings, method_schema, settings_parse, takes_request, yaml_load
from cli.watch import adaptor_ref, ending_sentence, job_watch, outcome, phase_words

app = typer.Typer(no_args_is_help=True)
EVALUATION = "validation/"
FEWEST_POINTS = 4
"""Of each curve, its first and last among them."""


class Command(StrEnum):
    SAVE_NOW = "save_now"
    SAMPLE_NOW = "sample_now"


@app.command("submit")
@takes_request
def job_submit(
    template: Annotated[
        str, typer.Option("--template", "-t", help="Template to take parameters from.", autocompletion=TEMPLATES)
    ] = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="YAML with the whole request.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="Method to run, without a template.")] = "",
    name: Annotated[str, typer.Option(help="Name of the job.")] = "",
    set_: Settings = None,
    request: Record = {},  # noqa: B006 stands for the shared options
    key: Annotated[str, typer.Option(help="Idempotency key: the same key gives the same job.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end; exit with its outcome.")] = False,
    as_json: Json = False,
) -> None:
    """Queue a job from a template, a file, or parameters; options override the template."""
    with connect() as client:
        body = yaml_load(file) if file else {}
        named = {"template": template, "method": method, "name": name}
        body |= {field: value for field, value in named.items() if value}
        body |= request
        if set_:
            body["params"] = {**(body.get("params") or {}), **settings_parse(set_, schema_for(client, body))}
        job = client.post("jobs", body, headers={"Idempotency-Key": key} if key else {})
        for warning in job.get("warnings") or []:
            err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
        if not watch:
            show_queued(job, as_json=as_json)
            return
        end_watching(job_watch(client, job, as_json=as_json), as_json=as_json)


@app.command("list")
def job_list(
    state: Annotated[str | None, typer.Option(help="queued, running, ...; several with commas.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Submitted from this template.", autocompletion=TEMPLATES)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Uses this dataset.", autocompletion=DATASETS)] = None,
    model: Annotated[str | None, typer.Option(help="Uses this base model.", autocompletion=MODELS)] = None,
    adaptor: Annotated[str | None, typer.Option(help="Uses or produced this adaptor.", autocompletion=ADAPTORS)] = None,
    label: Annotated[str | None, typer.Option(help="Has this label.")] = None,
    parent: Annotated[str | None, typer.Option(help="Reruns of this job (full id).")] = None,
    since: Annotated[str | None, typer.Option(help="Created at or after, as 2026-01-31T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Created before.")] = None,
    as_json: Json = False,
) -> None:
    """Jobs, the newest first."""
    query = {"state": state, "method": method, "search": search, "template": template, "dataset": dataset}
    query |= {"model": model, "adaptor": adaptor, "label": label, "parent": parent}
    query |= {"fields": "params,inputs,resources" if as_json else None}
    with connect() as client:
        jobs = list(client.pages("jobs", **query, created_after=since, created_before=until))
    columns = {"id": "short", "name": "name", "method": "method", "state": "state", "step": "step"}
    rows = (
        jobs
        if as_json
        else [{**job, "short": job["id"][:8], "state": state_text(job), "step": step_text(job)} for job in jobs]
    )
    print_rows(rows, columns | {"labels": "labels", "created": "created"}, as_json=as_json)


@app.command("show")
def job_show(job: Job, as_json: Json = False) -> None:
    """Show one job: state, progress, attempts, why it waits or why it failed."""
    with connect() as client:
        answer = client.get(f"jobs/{job}")
        curves = client.get(f"jobs/{job}/metrics", points=FEWEST_POINTS)["series"]
    if as_json:
        print_json(answer)
        return
    print_record(
        {
            **answer,
            "state": state_text(answer),
            "step": step_text(answer),
            "evaluation": evaluation_text(curves),
            "adaptor": adaptor_ref(answer) if answer.get("adaptor") else None,
        },
        (
            "id",
            "name",
            "method",
            "state",
            "waiting",
            "step",
            "evaluation",
            "adaptor",
            "template",
            "parent",
            "pool",
            "priority",
            "labels",
            "notes",
            "created",
            "started",
            "ended",
        ),
    )
    if answer.get("reason"):
        print_record(answer["reason"], ("message", "hint", "detail"))
    columns = {
        "attempt": "n",
        "outcome": "outcome",
        "last step": "last_step",
        "from step": "resumed_from",
        "exit": "exit_code",
    }
    if answer.get("attempts"):
        print_table(answer["attempts"], columns)


@app.command("watch")
def job_watch_(job: Job, as_json: Json = False) -> None:
    """Follow a job; exit with its outcome: 0 succeeded, 1 failed, 3 cancelled or paused."""
    with connect() as client:
        end_watching(job_watch(client, client.get(f"jobs/{job}"), as_json=as_json), as_json=as_json)


@app.command("logs")
def job_logs(job: Job, as_json: Json = False) -> None:
    """Standard output and error of the trainer."""
    with connect() as client:
        log = job_log(client, job)
    if as_json:
        print_json({"log": log})
    else:
        stdout_write(log)


@app.command("cancel")
def job_cancel(
    job: Job,
    force: Annotated[
        bool, typer.Option("--force", help="End it now without waiting for its worker; unpublished results are lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cancel a job permanently; a training job keeps its checkpoint and a partial adaptor."""
    act(job, "cancel", {"force": True} if force else None, as_json=as_json)


@app.command("pause")
def job_pause(job: Job, as_json: Json = False) -> None:
    """Pause a job; `anneal job resume` continues from its checkpoint."""
    act(job, "pause", as_json=as_json)


@app.command("resume")
def job_resume(job: Job, as_json: Json = False) -> None:
    """Queue a paused, cancelled or failed job again, from its last checkpoint."""
    act(job, "resume", as_json=as_json)


@app.command("control")
def job_control(job: Job, command: Command, as_json: Json = False) -> None:
    """Request a checkpoint or sample images from a running job now."""
    with connect() as client:
        answer = client.post(f"jobs/{job}/control", {"command": command.value})
    if as_json:
        print_json(answer)
    else:
        out.print(f"job {escape(answer['name'])}: asked for {command.value}")


def schema_for(client: Client, body: Record) -> Record:
    """The schema that `--set` is read with."""
    method = body.get("method")
    if not method:
        if not body.get("template"):
            raise CliError("a job needs --template, --file or --method", exit_code=Exit.USAGE)
        method = client.get(f"templates/{body['template']}")["method"]
    return method_schema(client, method)


def show_queued(job: Record, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        out.print(
            f"queued {job['name']}, job {job['id']}\nfollow it with: anneal job watch {job['id'][:8]}", soft_wrap=True
        )


def end_watching(job: Record, *, as_json: bool) -> None:
    if as_json:
        print_json_line(job)
    else:
        out.print(escape(ending_sentence(job)), soft_wrap=True)
    raise typer.Exit(outcome(job))


def act(job: str, verb: str, body: Record | None = None, *, as_json: bool) -> None:
    with connect() as client:
        answer = client.post(f"jobs/{job}/{verb}", body)
    if as_json:
        print_json(answer)
    else:
        stopping = ", stopping" if answer["stopping"] else ""
        out.print(f"job {escape(answer['name'])}: {answer['state']}{stopping}")


def evaluation_text(curves: dict[str, list[list[float]]]) -> str:
    """The numbers of the last evaluation: `exact_match 0.53, correct 53 (step 100)`."""
    rows = {name.removeprefix(EVALUATION): points for name, points in curves.items() if name.startswith(EVALUATION)}
    last = {name: points[-1] for name, points in rows.items() if points}
    if not last:
        return ""
    step = max(point[0] for point in last.values())
    numbers = ", ".join(f"{name} {value:.6g}" for name, (at, value) in last.items() if at == step)
    return f"{numbers} (step {step:.0f})"


def state_text(job: Record) -> str:
    """The state, what a claimed job does, and whether it is being stopped."""
    phase = f": {phase_words(job['phase'])}" if job.get("phase") else ""
    return f"{job['state']}{phase}{', stopping' if job.get('stopping') else ''}"


def step_text(job: Record) -> str:
    """The step that the trainer reached; what it did last, as an evaluation, may have been no step."""
    progress: dict[str, Any] = job.get("progress") or {}
    if "step" in progress:
        return f"{progress['step']}/{progress['total']}"
    last = [attempt["last_step"] for attempt in job.get("attempts", ()) if attempt["last_step"] is not None]
    return str(last[-1]) if last else "-"


app.command("rerun")(job_changes.job_rerun)
app.command("priority")(job_changes.job_priority)
app.command("note")(job_changes.job_note)
app.command("delete")(job_changes.job_delete)
app.command("metrics")(job_results.job_metrics)
app.command("samples")(job_results.job_samples)
app.command("artifacts")(job_results.job_artifacts)
app.command("manifest")(job_results.job_manifest)
app.command("spec")(job_results.job_spec)
app.command("tensorboard")(job_results.job_tensorboard)
