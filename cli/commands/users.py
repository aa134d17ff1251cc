"""`anneal login`, `project`, `member` and `user`: people, projects, and who may do what in them."""

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from cli.completion import PROJECTS
from cli.config import Login, config_path, login_load, login_save, login_saved
from cli.http import Client
from cli.http import login as login_call
from cli.output import Json, connect, print_done, print_json, print_list, print_record, print_rows

project_app = typer.Typer(no_args_is_help=True)
ProjectName = Annotated[
    str, typer.Argument(help="Name of the project; the login's own if left out.", autocompletion=PROJECTS)
]


@project_app.command("list")
def project_list(as_json: Json = False) -> None:
    """Your projects, with your role in each. A login opens one: `anneal login URL --project NAME` for another."""
    print_list("projects", {"name": "name", "role": "role", "created": "created"}, as_json=as_json)


@project_app.command("show")
def project_show(project: ProjectName = "", as_json: Json = False) -> None:
    """One project."""
    with connect() as client:
        record = client.get(f"projects/{project or own_project(client)}")
    if as_json:
        print_json(record)
    else:
        print_record(record, ("name", "role", "created"))


@project_app.command("create")
def project_create(name: Annotated[str, typer.Argument(help="Name of the project.")], as_json: Json = False) -> None:
    """Create a project and become its admin. A platform setting decides who may."""
    with connect() as client:
        created = client.post("projects", {"name": name})
    print_done(created, f"created project {created['name']}", as_json=as_json)


@project_app.command("invitations")
def project_invitations(as_json: Json = False) -> None:
    """Projects that you were invited to."""
    columns = {"project": "project", "role": "role", "by": "by", "created": "created"}
    print_list("me/invitations", columns, as_json=as_json)


@project_app.command("join")
def project_join(
    project: Annotated[str, typer.Argument(help="Name of a project that you were invited to.")],
    decline: Annotated[bool, typer.Option("--decline", help="Do not join; the invitation goes.")] = False,
    as_json: Json = False,
) -> None:
    """Accept an invitation, or decline it."""
    with connect() as client:
        client.post("me/invitations", {"project": project, "accept": not decline})
    done = f"declined {project}" if decline else f"you are a member of {project}; `anneal login` with it opens it"
    print_done({"project": project, "accepted": not decline}, done, as_json=as_json)


def own_project(client: Client) -> str:
    """Name of the project that the login opens."""
    return str(client.get("me")["project"])


app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="User name.")]


class Role(StrEnum):
    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


@app.command("list")
def user_list(as_json: Json = False) -> None:
    """All users of the platform; superusers only."""
    columns = {"name": "username", "active": "active", "superuser": "superuser", "last login": "last_login"}
    print_list("users", columns, as_json=as_json)


@app.command("create")
def user_create(
    name: Annotated[str, typer.Argument(help="User name.")],
    role: Annotated[Role, typer.Option(help="In the project of your login.")] = Role.WRITER,
    as_json: Json = False,
) -> None:
    """Create a user in your project; shows the initial password once."""
    with connect() as client:
        user = client.post("users", {"username": name, "role": role.value})
    message = f"user      {user['username']}\npassword  {user['password']}\nThe password is shown only this once."
    print_done(user, message, as_json=as_json)


@app.command("disable")
def user_disable(name: Name, as_json: Json = False) -> None:
    """Disable a user and all their tokens until `anneal user enable`; ends their logins. Superusers only."""
    with connect() as client:
        user = client.post(f"users/{name}/disable")
    print_done(
        user, f"{user['username']} is disabled; `anneal user enable {user['username']}` undoes it", as_json=as_json
    )


@app.command("enable")
def user_enable(name: Name, as_json: Json = False) -> None:
    """Enable a disabled user; their tokens for programs work again. Superusers only."""
    with connect() as client:
        user = client.post(f"users/{name}/enable")
    print_done(user, f"{user['username']} may log in again", as_json=as_json)


@app.command("reset")
def user_reset(name: Name, as_json: Json = False) -> None:
    """Reset a user's password, shown once; ends their logins. Superusers only."""
    with connect() as client:
        user = client.post(f"users/{name}/reset")
    message = f"user      {user['username']}\npassword  {user['password']}\nThe password is shown only this once."
    print_done(user, message, as_json=as_json)


@app.command("password")
def user_password(
    old: Annotated[str, typer.Option(envvar="ANNEAL_PASSWORD", help="Asked for if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Change your password. Ends all your logins, including this one; your tokens stay valid."""
    old = old or typer.prompt("Old password", hide_input=True, err=True)
    new = typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    with connect() as client:
        client.post("me/password", {"old": old, "new": new})
    print_done({"changed": True}, "changed; log in again with `anneal login URL`", as_json=as_json)


members_app = typer.Typer(no_args_is_help=True)
User = Annotated[str, typer.Argument(help="User name.")]
Project = Annotated[str, typer.Option(help="The login's own if left out.", autocompletion=PROJECTS)]


@members_app.command("list")
def member_list(project: Project = "", as_json: Json = False) -> None:
    """Members of the project and their roles."""
    with connect() as client:
        rows = list(client.pages(f"projects/{project or own_project(client)}/members"))
    print_rows(rows, {"user": "user", "role": "role"}, as_json=as_json)


@members_app.command("set")
def member_set(
    user: User,
    role: Annotated[Role, typer.Argument(help="What they may do.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Invite a user to the project, or change a member's role."""
    with connect() as client:
        project = project or own_project(client)
        member = client.put(f"projects/{project}/members/{quote(user, safe='')}", {"role": role.value})
    invited = f"{user} is invited to {project} as {role.value}; `anneal project join {project}` accepts it"
    done = f"{user} is {role.value} of {project}"
    print_done(member, done if member["accepted"] else invited, as_json=as_json)


@members_app.command("remove")
def member_remove(user: User, project: Project = "", as_json: Json = False) -> None:
    """Remove a member from the project; the last admin cannot be removed."""
    with connect() as client:
        project = project or own_project(client)
        client.delete(f"projects/{project}/members/{quote(user, safe='')}")
    print_done({"removed": user, "project": project}, f"{user} is no member of {project} any more", as_json=as_json)


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
    """Log in: save the API's URL and a token."""
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
    """Log out: revoke the login's token and delete it."""
    used, saved = login_load(), login_saved(config_path())
    with connect() as client:
        client.post("auth/logout")
    if saved == used:
        config_path().unlink()
    print_done({"url": used.url, "revoked": True}, f"logged out of {used.url}", as_json=as_json)
