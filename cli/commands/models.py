"""`anneal model`."""

import typer

from cli.commands import conversions
from cli.fetching import add_fetch
from cli.versions import add_commands

app = typer.Typer(no_args_is_help=True)
add_commands(app, "models", "a folder in diffusers format, or a language model (config.json, tokenizer, safetensors)")
add_fetch(app, "models")
app.command("merge")(conversions.model_merge)
