"""`anneal member`."""

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from cli.commands.projects import own_project
from cli.completion import PROJECTS
from cli.output import Json, connect, print_done, print_rows

app = typer.Typer(no_args_is_help=True)
User = Annotated[str, typer.Argument(help="User name.")]
Project = Annotated[str, typer.Option(help="The login's own if left out.", autocompletion=PROJECTS)]


class Role(StrEnum):
    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


@app.command("list")
def member_list(project: Project = "", as_json: Json = False) -> None:
    """Who belongs to the project: readers look, writers change, admins rule."""
    with connect() as client:
        rows = list(client.pages(f"projects/{project or own_project(client)}/members"))
    print_rows(rows, {"user": "user", "role": "role"}, as_json=as_json)


@app.command("set")
def member_set(
    user: User,
    role: Annotated[Role, typer.Argument(help="What they may do.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Invite a person to the project, or change a member's role."""
    with connect() as client:
        project = project or own_project(client)
        member = client.put(f"projects/{project}/members/{quote(user, safe='')}", {"role": role.value})
    invited = f"{user} is invited to {project} as {role.value}; `anneal project join {project}` accepts it"
    done = f"{user} is {role.value} of {project}"
    print_done(member, done if member["accepted"] else invited, as_json=as_json)


@app.command("remove")
def member_remove(user: User, project: Project = "", as_json: Json = False) -> None:
    """Take a person out of the project; the last admin stays."""
    with connect() as client:
        project = project or own_project(client)
        client.delete(f"projects/{project}/members/{quote(user, safe='')}")
    print_done({"removed": user, "project": project}, f"{user} is no member of {project} any more", as_json=as_json)
