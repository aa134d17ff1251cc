"""`anneal project`."""

from typing import Annotated

import typer

from cli.completion import PROJECTS
from cli.http import Client
from cli.output import Json, connect, print_done, print_json, print_record, print_rows

app = typer.Typer(no_args_is_help=True)
Project = Annotated[
    str, typer.Argument(help="Name of the project; the login's own if left out.", autocompletion=PROJECTS)
]


@app.command("list")
def project_list(as_json: Json = False) -> None:
    """Your projects, with your role in each. A login opens one: `anneal login URL --project NAME` for another."""
    with connect() as client:
        rows = list(client.pages("projects"))
    print_rows(rows, {"name": "name", "role": "role", "created": "created"}, as_json=as_json)


@app.command("show")
def project_show(project: Project = "", as_json: Json = False) -> None:
    """One project."""
    with connect() as client:
        record = client.get(f"projects/{project or own_project(client)}")
    if as_json:
        print_json(record)
    else:
        print_record(record, ("name", "role", "created"))


@app.command("create")
def project_create(name: Annotated[str, typer.Argument(help="Name of the project.")], as_json: Json = False) -> None:
    """Create a project and become its admin. A platform setting decides who may."""
    with connect() as client:
        created = client.post("projects", {"name": name})
    print_done(created, f"created project {created['name']}", as_json=as_json)


@app.command("invitations")
def project_invitations(as_json: Json = False) -> None:
    """Projects that you were invited to."""
    with connect() as client:
        rows = list(client.pages("me/invitations"))
    print_rows(rows, {"project": "project", "role": "role", "by": "by", "created": "created"}, as_json=as_json)


@app.command("join")
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
