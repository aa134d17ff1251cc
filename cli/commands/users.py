"""`anneal user`."""

from typing import Annotated

import typer

from cli.commands.members import Role
from cli.output import Json, connect, print_done, print_rows

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="User name.")]


@app.command("list")
def user_list(as_json: Json = False) -> None:
    """Everybody on the platform; for superusers."""
    with connect() as client:
        rows = list(client.pages("users"))
    columns = {"name": "username", "active": "active", "superuser": "superuser", "last login": "last_login"}
    print_rows(rows, columns, as_json=as_json)


@app.command("create")
def user_create(
    name: Annotated[str, typer.Argument(help="User name.")],
    role: Annotated[Role, typer.Option(help="In the project of your login.")] = Role.WRITER,
    as_json: Json = False,
) -> None:
    """Make a person in your project; shows their first password, once."""
    with connect() as client:
        user = client.post("users", {"username": name, "role": role.value})
    message = f"user      {user['username']}\npassword  {user['password']}\nThe password is shown only this once."
    print_done(user, message, as_json=as_json)


@app.command("disable")
def user_disable(name: Name, as_json: Json = False) -> None:
    """Let nothing of a person open anything, until `anneal user enable`; ends their logins. For superusers."""
    with connect() as client:
        user = client.post(f"users/{name}/disable")
    print_done(
        user, f"{user['username']} is disabled; `anneal user enable {user['username']}` undoes it", as_json=as_json
    )


@app.command("enable")
def user_enable(name: Name, as_json: Json = False) -> None:
    """Let a disabled person log in again; the tokens that they made for programs work again. For superusers."""
    with connect() as client:
        user = client.post(f"users/{name}/enable")
    print_done(user, f"{user['username']} may log in again", as_json=as_json)


@app.command("reset")
def user_reset(name: Name, as_json: Json = False) -> None:
    """Give a person a new password, shown once; ends their logins. For superusers."""
    with connect() as client:
        user = client.post(f"users/{name}/reset")
    message = f"user      {user['username']}\npassword  {user['password']}\nThe password is shown only this once."
    print_done(user, message, as_json=as_json)


@app.command("password")
def user_password(
    old: Annotated[str, typer.Option(envvar="ANNEAL_PASSWORD", help="Asked for if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Change your own password. It ends all your logins, this one too; tokens that you made stay."""
    old = old or typer.prompt("Old password", hide_input=True, err=True)
    new = typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    with connect() as client:
        client.post("me/password", {"old": old, "new": new})
    print_done({"changed": True}, "changed; log in again with `anneal login URL`", as_json=as_json)
