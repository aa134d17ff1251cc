"""`anneal adaptor`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.commands import conversions
from cli.completion import ADAPTORS, MODELS
from cli.downloads import adaptor_write, response_write
from cli.errors import CliError, Exit
from cli.http import Record, without_none
from cli.output import (
    Json,
    connect,
    print_done,
    print_json,
    print_record,
    print_rows,
    print_table,
    transfer_bar,
)
from cli.versions import sized

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=ADAPTORS)]
app.command("import")(conversions.adaptor_import)
app.command("extract")(conversions.adaptor_extract)
SHOWN = ("name", "version", "method", "trigger_word", "base_model", "job", "partial", "tags", "notes", "created")
TEXT_COLUMNS = {
    "recipe": "facts.training_method",
    "weighting": "facts.loss_weight_type",
    "per batch": "facts.perbatch_cutoff",
    "cutoff": "facts.resp_cutoff_ratio",
    "prompt masked": "facts.mask_prompt_loss",
    "cut": "facts.truncated",
}
SIGNS = {">=": "__gte", "<=": "__lte", "!=": "__ne", ">": "__gt", "<": "__lt", "~": "__contains", "=": ""}


@app.command("list")
def adaptor_list(
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    name: Annotated[str | None, typer.Option(help="All versions of this name.", autocompletion=ADAPTORS)] = None,
    method: Annotated[str | None, typer.Option(help="Produced by this method.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Trained on this base model.", autocompletion=MODELS)] = None,
    tag: Annotated[str | None, typer.Option(help="Has this tag.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", "-w", help="As 'metrics.loss<0.1', 'params.lora_r=8', 'manifest.seed!=1'; ~ is contains."
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="created, name, size_bytes, metrics.loss, ...; - for descending.")
    ] = None,
    training_method: Annotated[str | None, typer.Option(help="Of text adaptors: bert, llada or dream.")] = None,
    as_json: Json = False,
) -> None:
    """Adaptors of the project, newest first; text adaptors with their recipe."""
    query: dict[str, Any] = {"search": search, "name": name, "method": method, "base_model": base_model}
    conditions = dict(condition_parse(text) for text in where or [])
    conditions |= {"manifest.training_method": training_method} if training_method else {}
    with connect() as client:
        rows = list(client.pages("adaptors", **query, tag=tag, sort=sort, **conditions))
    columns = {"name": "name", "version": "version", "trigger": "trigger_word", "base model": "base_model"}
    columns |= TEXT_COLUMNS if any(row.get("facts") for row in rows) else {}
    columns |= {"loss": "metrics.loss", "tags": "tags", "partial": "partial", "created": "created"}
    print_rows(rows, columns, as_json=as_json)


@app.command("show")
def adaptor_show(name: Name, as_json: Json = False) -> None:
    """One adaptor: trigger word, base model, job, files."""
    with connect() as client:
        adaptor = client.get(f"adaptors/{name}")
    if as_json:
        print_json(adaptor)
        return
    print_record(adaptor, SHOWN)
    print_table([sized(file) for file in adaptor["files"]], {"file": "path", "size": "size"})


@app.command("pull")
def adaptor_pull(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder, or with --zip a file; <name>-v<version> if left out.")
    ] = None,
    as_zip: Annotated[bool, typer.Option("--zip", help="One ZIP archive instead of a folder.")] = False,
    as_json: Json = False,
) -> None:
    """Download an adaptor: safetensors that diffusers loads, model card, manifest."""
    with connect() as client:
        adaptor = client.get(f"adaptors/{name}")
        ref = f"{adaptor['name']}@{adaptor['version']}"
        target = output or Path(f"{adaptor['name']}-v{adaptor['version']}{'.zip' if as_zip else ''}")
        if as_zip:
            response_write(client, f"adaptors/{ref}/zip", target)
    if not as_zip:
        total = sum(file["size"] for file in adaptor["files"])
        with transfer_bar(f"downloading {adaptor['name']}", total, quiet=as_json) as on_bytes:
            adaptor_write(adaptor, target, on_bytes)
    result = {
        "name": adaptor["name"],
        "version": adaptor["version"],
        "file" if as_zip else "folder": str(target.resolve()),
    }
    print_done(result, f"{ref} is in {escape(str(target))}", as_json=as_json)


@app.command("tag")
def adaptor_tag(
    name: Name,
    tags: Annotated[list[str] | None, typer.Argument(help="All its tags; none removes them.")] = None,
    as_json: Json = False,
) -> None:
    """Replace the tags of an adaptor."""
    edit(name, {"tags": tags or []}, as_json=as_json)


@app.command("note")
def adaptor_note(name: Name, text: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """Replace the notes of an adaptor."""
    edit(name, {"notes": text}, as_json=as_json)


@app.command("lineage")
def adaptor_lineage(name: Name, as_json: Json = False) -> None:
    """Show its origin (job, template version, inputs, attempts) and what uses it."""
    with connect() as client:
        lineage = client.get(f"adaptors/{name}/lineage")
        used = client.get(f"adaptors/{name}/used-by")
    if as_json:
        print_json({**lineage, "used_by": used})
        return
    inputs = [f"{ref['role']} {ref['name']}" for ref in lineage["inputs"]]
    record = {
        **lineage,
        "job": link(lineage["job"]),
        "parent": lineage["parent"] and link(lineage["parent"]),
        "inputs": inputs,
    }
    record |= {"reruns": [link(job) for job in lineage["reruns"]], "used_by": [link(job) for job in used["jobs"]]}
    print_record(record, ("adaptor", "job", "template", "parent", "inputs", "reruns", "used_by", "spec_digest"))
    columns = {
        "attempt": "n",
        "worker": "worker",
        "outcome": "outcome",
        "from step": "resumed_from",
        "last step": "last_step",
    }
    print_table(lineage["attempts"], columns)


@app.command("delete")
def adaptor_delete(name: Name, as_json: Json = False) -> None:
    """Delete one version; refused while an unfinished job or a template needs it."""
    if "@" not in name:
        raise CliError(
            f"name the version to delete, as {name}@1", "`anneal adaptor list` shows them.", exit_code=Exit.USAGE
        )
    with connect() as client:
        client.delete(f"adaptors/{name}")
    print_done({"deleted": name}, f"deleted {escape(name)}", as_json=as_json)


def condition_parse(text: str) -> tuple[str, str]:
    """`metrics.loss<0.1` as the query parameter that it stands for."""
    matches = [(text.index(sign), -len(sign), sign) for sign in SIGNS if sign in text]
    if not matches:
        raise CliError(f"--where expects a path, a sign and a value, got {text!r}", exit_code=Exit.USAGE)
    at, _, sign = min(matches)
    return text[:at].strip() + SIGNS[sign], text[at + len(sign) :].strip()


def edit(name: str, changes: Record, *, as_json: bool) -> None:
    with connect() as client:
        answer: Record = client.request("PATCH", f"adaptors/{name}", json=without_none(changes)).json()
    print_done(answer, f"changed {answer['name']}@{answer['version']}", as_json=as_json)


def link(job: Record) -> str:
    return f"{job['name']} ({job['id'][:8]}, {job['state']})"
