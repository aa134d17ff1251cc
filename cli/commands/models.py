"""`anneal model`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import conversions
from cli.completion import MODELS
from cli.errors import CliError, Exit
from cli.fetching import add_fetch
from cli.output import Json
from cli.requests import Pool, Priority
from cli.versions import add_commands, add_help, version_add
from formats.single_file import Checkpoint, checkpoint_file

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
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    if path.suffix == ".safetensors":
        found = checkpoint(path)
        if components_from is None:
            raise CliError(
                f"{path.name} is a {found.title} checkpoint in one file, which lacks {', '.join(found.missing)}",
                f"Name a base model of family {found.family} with --components-from; `anneal model fetch` gets one.",
                exit_code=Exit.USAGE,
            )
        conversions.model_import(name, path, components_from, pool=pool, priority=priority, as_json=as_json)
        return
    if components_from is not None:
        raise CliError(f"--components-from is for a .safetensors file, got {path.name}", exit_code=Exit.USAGE)
    version_add("models", name, path, as_json=as_json)


def checkpoint(path: Path) -> Checkpoint:
    try:
        found = checkpoint_file(path)
    except ValueError as error:
        raise CliError(str(error), exit_code=Exit.USAGE) from error
    if found is None:
        raise CliError(
            f"{path.name}: expected a checkpoint of SD 1.x, 2.x, XL, SD3 or Flux in one file, by its tensors' names",
            "A LoRA is added with `anneal adaptor import`.",
            exit_code=Exit.USAGE,
        )
    return found
