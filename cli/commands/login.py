"""`anneal login`."""

from typing import Annotated

import typer

from cli.config import Login, login_save
from cli.http import Client
from cli.http import login as login_call
from cli.output import Json, out, print_json

Url = Annotated[str, typer.Argument(help="Root of the platform, for instance http://127.0.0.1:8000.")]


def login(
    url: Url,
    user: Annotated[str, typer.Option("--user", "-u", help="User name; asked for if left out.")] = "",
    password: Annotated[str, typer.Option(envvar="ANNEAL_PASSWORD", help="Asked for if left out.")] = "",
    token: Annotated[str, typer.Option(help="Use this token instead of a password.")] = "",
    as_json: Json = False,
) -> None:
    """Save where the API is and a token for it."""
    if token:
        found = Login(url=url, token=token)
    else:
        user = user or typer.prompt("User", err=True)
        found = login_call(url, user, password or typer.prompt("Password", hide_input=True, err=True))
    with Client(found) as client:
        me = client.get("me")
    path = login_save(found)
    if as_json:
        print_json({**me, "url": url, "config": str(path)})
    else:
        out.print(f"logged in to {url} as {me['user']}, project {me['project']} (saved in {path})", soft_wrap=True)
