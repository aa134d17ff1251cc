"""`anneal login`, `anneal logout`."""

from typing import Annotated

import typer

from cli.config import Login, config_path, login_load, login_save, login_saved
from cli.http import Client
from cli.http import login as login_call
from cli.output import Json, connect, print_done

Url = Annotated[str, typer.Argument(help="Root of the platform, for instance http://127.0.0.1:8000.")]


def login(
    url: Url,
    user: Annotated[str, typer.Option("--user", "-u", help="User name; asked for if left out.")] = "",
    password: Annotated[str, typer.Option(envvar="ANNEAL_PASSWORD", help="Asked for if left out.")] = "",
    project: Annotated[str | None, typer.Option(help="Project to work in; the first by name if left out.")] = None,
    join: Annotated[str | None, typer.Option(help="Accept the invitation to this project, and work in it.")] = None,
    token: Annotated[str, typer.Option(help="Use this token instead of a password.")] = "",
    as_json: Json = False,
) -> None:
    """Save where the API is and a token for it."""
    if token:
        session = Login(url=url, token=token)
    else:
        user = user or typer.prompt("User", err=True)
        password = password or typer.prompt("Password", hide_input=True, err=True)
        session = login_call(url, user, password, project, join=join)
    with Client(session) as client:
        me = client.get("me")
    path = login_save(session)
    message = f"logged in to {url} as {me['user']}, project {me['project']} (saved in {path})"
    print_done({**me, "url": url, "config": str(path)}, message, as_json=as_json)


def logout(as_json: Json = False) -> None:
    """Revoke the login's token, and forget it."""
    used, saved = login_load(), login_saved(config_path())
    with connect() as client:
        client.post("auth/logout")
    if saved == used:
        config_path().unlink()
    print_done({"url": used.url, "revoked": True}, f"logged out of {used.url}", as_json=as_json)
