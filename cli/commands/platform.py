"""`anneal up` and `anneal demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.config import Login, config_path, login_save
from cli.demo import run_demo, run_text_demo
from cli.output import Json, err, out, print_json_line
from cli.platform.home import Database, RequestedKinds
from cli.platform.start import Platform, platform_run


def up(
    folder: Annotated[Path, typer.Option("--dir", help="Folder of all data.")] = Path("var/anneal"),
    database: Annotated[
        Database | None, typer.Option("--db", help="Database; chosen once, at the first start.", show_default="sqlite")
    ] = None,
    s3: Annotated[
        bool | None, typer.Option("--s3/--no-s3", help="Store files on an S3 server (SeaweedFS); chosen once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole platform on this machine until Ctrl-C: API, queue, dispatcher, one worker."""
    requested = RequestedKinds(database, None if s3 is None else "s3" if s3 else "folder")

    def on_ready(platform: Platform) -> None:
        if as_json:
            print_json_line({"url": platform.url, "dir": str(platform.home.root), **platform.first})
        else:
            welcome(platform)

    platform_run(folder, lambda line: err.print(escape(line), style="dim", soft_wrap=True), on_ready, requested)


def welcome(platform: Platform) -> None:
    """Prints the URL and, at the first start, the secrets, which are shown only once."""
    first = platform.first
    out.print(f"Anneal is up at [bold]{platform.url}[/bold] (folder {platform.home.root})", soft_wrap=True)
    if not first:
        out.print("Ctrl-C drains and stops it.")
        return
    saved = config_path()
    if not saved.exists():
        login_save(Login(url=platform.url, token=first["token"]))
        out.print(f"`anneal` on this machine is logged in ({saved}).", soft_wrap=True)
    else:
        out.print(f"To use it from here: anneal login {platform.url} --token TOKEN", soft_wrap=True)
    out.print(f"\nuser      {first['user']}\npassword  {first['password']}\ntoken     {first['token']}")
    out.print("\nKeep them: they are shown only this once. Ctrl-C drains and stops the platform.")


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Folder of all data.")] = Path("demo"),
    text: Annotated[bool, typer.Option("--text", help="Run the text example: sums in words.")] = False,
    as_json: Json = False,
) -> None:
    """Train the example adaptor, compare it with its base, stop. Takes a few minutes."""
    if text:
        run_text_demo(folder, as_json=as_json)
        return
    run_demo(folder, as_json=as_json)
