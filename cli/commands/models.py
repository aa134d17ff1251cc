"""`anneal model`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.commands import conversions
from cli.completion import MODELS
from cli.errors import CliError, Exit
from cli.http import without_none
from cli.output import Json, err
from cli.requests import Pool, Priority
from cli.versions import Secrets, add_commands, add_fetch, add_help, version_add
from formats.models.safetensors_header import HeaderError
from formats.models.single_file import REPOSITORIES, Checkpoint, CheckpointError, checkpoint_file
from formats.models.single_file_configs import configs_of

CONTENT = (
    "a folder in diffusers format, a single-file checkpoint, or a language model (config.json, tokenizer, safetensors)"
)


class PredictionType(StrEnum):
    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"


app = typer.Typer(no_args_is_help=True)
add_commands(app, "models", CONTENT, with_add=False)
add_fetch(app, "models")
app.command("merge")(conversions.model_merge)


@app.command("add", help=add_help(CONTENT))
def add(
    name: Annotated[str, typer.Argument(help="Name; adds a version if it exists.", autocompletion=MODELS)],
    path: Annotated[Path, typer.Argument(help="Folder, zip or single .safetensors file to upload.", exists=True)],
    components_from: Annotated[
        str | None,
        typer.Option(
            help="For a single file: a base model of its family, which gives what the file lacks.",
            autocompletion=MODELS,
        ),
    ] = None,
    components_from_hub: Annotated[
        bool,
        typer.Option(
            "--components-from-hub", help="For a single file: a repository of its family gives what it lacks."
        ),
    ] = False,
    repo: Annotated[
        str | None, typer.Option(help="That repository: owner/name, in diffusers format; the family's own if left out.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of another Hub that the operator allows.")] = None,
    secret: Secrets = None,
    prediction_type: Annotated[
        PredictionType | None,
        typer.Option(help="For a single file: what its network predicts, where the file does not say it."),
    ] = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    hub = without_none({"repo": repo, "endpoint": endpoint, "secret": secret or None})
    prediction = prediction_type.value if prediction_type else None
    if path.is_dir() or path.suffix == ".zip":
        places = {"components-from": components_from, "components-from-hub": components_from_hub or None, **hub}
        if options := list(without_none({**places, "prediction-type": prediction})):
            raise CliError(f"--{options[0]} is for a .safetensors file, got {path.name}", exit_code=Exit.USAGE)
        version_add("models", name, path, as_json=as_json)
        return
    if hub and not components_from_hub:
        raise CliError(f"--{next(iter(hub))} needs --components-from-hub", exit_code=Exit.USAGE)
    checkpoint = checkpoint_read(path, prediction)
    rest_check(path, checkpoint, components_from, components_from_hub)
    if components_from_hub:
        hub = {"repo": REPOSITORIES[checkpoint.family], **hub}
        err.print(f"{', '.join(checkpoint.missing)}: from {escape(hub['repo'])} on the Hub", style="dim")
        hub["secrets"] = hub.pop("secret", None)
    params = without_none({"name": name, "prediction_type": prediction, **hub})
    conversions.model_import(path, params, components_from, pool=pool, priority=priority, as_json=as_json)


def rest_check(path: Path, checkpoint: Checkpoint, components_from: str | None, components_from_hub: bool) -> None:
    """Raises CliError unless one place gives what the file lacks."""
    if components_from and components_from_hub:
        raise CliError(
            "--components-from and --components-from-hub both give what the file lacks; leave one out",
            exit_code=Exit.USAGE,
        )
    if not components_from and not components_from_hub:
        raise CliError(
            f"{path.name} is a {checkpoint.title} checkpoint in one file, which lacks {', '.join(checkpoint.missing)}",
            f"Name a base model of family {checkpoint.family} with --components-from, or take them from "
            f"{REPOSITORIES[checkpoint.family]} with --components-from-hub.",
            exit_code=Exit.USAGE,
        )


def checkpoint_read(path: Path, prediction_type: str | None) -> Checkpoint:
    """By the file's header, before anything of it is uploaded."""
    try:
        checkpoint, header = checkpoint_file(path)
        configs_of(checkpoint, header.tensors)
    except (HeaderError, CheckpointError) as error:
        raise CliError(str(error), error.hint, exit_code=Exit.USAGE) from error
    if checkpoint.is_flow and prediction_type:
        raise CliError(f"--prediction-type does nothing for {checkpoint.title}, a flow model", exit_code=Exit.USAGE)
    if checkpoint.needs_prediction_type and prediction_type is None:
        raise CliError(
            f"{path.name} does not say what it was trained to predict, as a {checkpoint.title} file should",
            "Add --prediction-type v_prediction (models of 768 pixels) or epsilon (of 512).",
            exit_code=Exit.USAGE,
        )
    return checkpoint
