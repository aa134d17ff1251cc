"""`anneal dataset`."""

import typer

from cli.versions import add_commands

app = typer.Typer(no_args_is_help=True)
add_commands(app, "datasets", "a folder of pictures with metadata.jsonl, metadata.csv or one .txt beside each")
