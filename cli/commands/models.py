"""`anneal model`."""

import typer

from cli.fetching import add_fetch
from cli.versions import add_commands

app = typer.Typer(no_args_is_help=True)
add_commands(app, "models", "a folder in diffusers format (model_index.json and safetensors)")
add_fetch(app, "models")
