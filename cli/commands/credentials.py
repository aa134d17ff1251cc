"""`anneal token` and `anneal secret`: what programs and workers log in with, and what jobs need."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.completion import PROJECTS, SECRETS, TOKENS
from cli.errors import CliError
from cli.http import Client, Record
from cli.output import Json, connect, print_done, print_list, print_rows

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Description of its purpose.")]
Days = Annotated[int | None, typer.Option(min=1, help="Days until it expires.")]


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@app.command("list")
def token_list(as_json: Json = False) -> None:
    """Your tokens in this project; admins see all. The secret parts are never shown."""
    with connect() as client:
        rows = list(client.pages("tokens"))
    columns = {"id": "short", "name": "name", "user": "user", "scopes": "scopes", "state": "state"}
    shown = rows if as_json else [{**row, "short": row["id"][:8], "state": state_of(row)} for row in rows]
    print_rows(shown, columns | {"ends": "expires_at", "last used": "last_used"}, as_json=as_json)


@app.command("create")
def token_create(
    name: Name,
    scope: Annotated[list[Scope] | None, typer.Option(help="read if left out; may be repeated.")] = None,
    project: Annotated[str, typer.Option(help="That of the login if left out.", autocompletion=PROJECTS)] = "",
    days: Days = 90,
    for_ever: Annotated[bool, typer.Option("--for-ever", help="It never expires.")] = False,
    as_json: Json = False,
) -> None:
    """Create a token for a program, with at most your own scopes. It is shown once."""
    body: Record = {"name": name, "scopes": [one.value for one in scope or [Scope.READ]]}
    body |= {"expires_in_days": None if for_ever else days} | ({"project": project} if project else {})
    made("tokens", body, as_json=as_json)


@app.command("create-worker")
def token_create_worker(name: Name, days: Days = None, as_json: Json = False) -> None:
    """Create a token for worker hosts, which serve every project; superusers only. Expires only with --days."""
    made("tokens/workers", {"name": name, "expires_in_days": days}, as_json=as_json)


@app.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(help="Id of the token, or its first characters.", autocompletion=TOKENS)],
    as_json: Json = False,
) -> None:
    """Revoke a token permanently."""
    with connect() as client:
        row = token_find(client, token)
        client.delete(f"tokens/{row['id']}")
    print_done({"revoked": row["id"]}, f"revoked {row['name']} ({row['id'][:8]})", as_json=as_json)


def made(path: str, body: dict[str, Any], *, as_json: bool) -> None:
    with connect() as client:
        token = client.post(path, body)
    message = f"{token['token']}\nIt is shown only this once; it ends {token['expires_at'] or 'never'}."
    print_done(token, message, as_json=as_json)


def token_find(client: Client, reference: str) -> Record:
    rows = [row for row in client.pages("tokens") if row["id"].startswith(reference)]
    if len(rows) != 1:
        hint = "`anneal token list` shows their ids."
        raise CliError(f"expected one token {reference!r}, found {len(rows)}", hint, code="not_found")
    return rows[0]


def state_of(token: Record) -> str:
    return "revoked" if token["revoked_at"] else "login" if token["login"] else token["kind"]


secrets_app = typer.Typer(no_args_is_help=True)
SecretName = Annotated[str, typer.Argument(help="Lower-case letters, digits and underscores.", autocompletion=SECRETS)]


class Kind(StrEnum):
    """Where a trainer finds it: HF_TOKEN, WANDB_API_KEY, or ANNEAL_SECRET_<NAME>."""

    HUB = "hub"
    WANDB = "wandb"
    GENERIC = "generic"


@secrets_app.command("list")
def secret_list(as_json: Json = False) -> None:
    """Names and kinds; for admins of the project."""
    columns = {"name": "name", "kind": "kind", "variable": "variable", "created": "created", "replaced": "rotated"}
    print_list("secrets", columns, as_json=as_json)


@secrets_app.command("set")
def secret_set(
    name: SecretName,
    kind: Annotated[Kind, typer.Option(help="Decides the name of the environment variable.")] = Kind.GENERIC,
    as_json: Json = False,
) -> None:
    """Set a secret. The value is prompted for or read from standard input, never taken from the command line."""
    value = value_read()
    with connect() as client:
        saved = client.put(f"secrets/{name}", {"kind": kind.value, "value": value})
    print_done(saved, f"saved {saved['name']}; jobs that name it find it in {saved['variable']}", as_json=as_json)


@secrets_app.command("delete")
def secret_delete(name: SecretName, as_json: Json = False) -> None:
    """Delete a secret; running attempts keep their copy."""
    with connect() as client:
        client.delete(f"secrets/{name}")
    print_done({"deleted": name}, f"deleted {name}", as_json=as_json)


def value_read() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Value", hide_input=True, err=True))
    return sys.stdin.read().strip()
