"""`anneal model`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import conversions
from cli.completion import MODELS
from cli.errors import CliError, Exit
from cli.fetching import add_fetch
from cli.http import known
from cli.output import Json
from cli.requests import Pool, Priority
from cli.versions import add_commands, add_help, version_add
from formats.safetensors_header import HeaderError
from formats.single_file import Checkpoint, CheckpointError, checkpoint_file
from formats.single_file_configs import configs_of

CONTENT = (
    "a folder in diffusers format, a single-file checkpoint, or a language model (config.json, tokenizer, safetensors)"
)

app = typer.Typer(no_args_is_help=True)
add_commands(app, "models", CONTENT, with_add=False)
add_fetch(app, "models")
app.command("merge")(conversions.model_merge)


@app.command("add", help=add_help(CONTENT))
def add(
    name: Annotated[str, typer.Argument(help="Name; a new version if it exists.", autocompletion=MODELS)],
    path: Annotated[Path, typer.Argument(help="Folder, zip or single .safetensors file to upload.", exists=True)],
    components_from: Annotated[
        str | None,
        typer.Option(
            help="For a single file: a base model of its family, which gives what the file lacks.",
            autocompletion=MODELS,
        ),
    ] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(help="For a single file that does not say it: epsilon or v_prediction."),
    ] = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    if path.is_file() and path.suffix != ".zip":
        single_file_add(name, path, components_from, prediction_type, pool=pool, priority=priority, as_json=as_json)
        return
    for option, value in (("--components-from", components_from), ("--prediction-type", prediction_type)):
        if value is not None:
            raise CliError(f"{option} is for a .safetensors file, got {path.name}", exit_code=Exit.USAGE)
    version_add("models", name, path, as_json=as_json)


def single_file_add(
    name: str,
    path: Path,
    components_from: str | None,
    prediction_type: str | None,
    *,
    pool: str | None,
    priority: int | None,
    as_json: bool,
) -> None:
    checkpoint = checkpoint_read(path)
    if components_from is None:
        raise CliError(
            f"{path.name} is a {checkpoint.title} checkpoint in one file, which lacks {', '.join(checkpoint.missing)}",
            f"Name a base model of family {checkpoint.family} with --components-from; `anneal model fetch` gets one.",
            exit_code=Exit.USAGE,
        )
    if checkpoint.needs_prediction_type and prediction_type is None:
        raise CliError(
            f"{path.name} does not say what it was trained to predict, as a {checkpoint.title} file should",
            "Add --prediction-type v_prediction (models of 768 pixels) or epsilon (of 512).",
            exit_code=Exit.USAGE,
        )
    params = known({"name": name, "prediction_type": prediction_type})
    conversions.model_import(path, params, components_from, pool=pool, priority=priority, as_json=as_json)


def checkpoint_read(path: Path) -> Checkpoint:
    """By the file's header, before anything of it is uploaded."""
    try:
        checkpoint, header = checkpoint_file(path)
        configs_of(checkpoint, header.tensors)
    except (HeaderError, CheckpointError) as error:
        raise CliError(str(error), error.hint, exit_code=Exit.USAGE) from error
    return checkpoint
