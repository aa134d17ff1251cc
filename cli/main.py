"""The `anneal` command."""

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cli.commands import (
    adaptors,
    audit,
    datasets,
    jobs,
    login,
    members,
    methods,
    models,
    platform,
    projects,
    sample,
    secrets,
    templates,
    tokens,
    usage,
    users,
    workers,
)
from cli.errors import CliError
from cli.output import print_error


class Group(TyperGroup):
    """Ends a command that raised CliError with its sentence and its exit code instead of a traceback."""

    wants_json = False

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        self.wants_json = "--json" in (sys.argv if args is None else args)
        return super().main(args, *rest, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            print_error(error, as_json=self.wants_json)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=Group,
    name="anneal",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train diffusion models: write a template, queue it, watch the job, use the adaptor.\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 job cancelled or paused, 4 the API does not answer.",
)
app.command("up")(platform.up)
app.command("demo")(platform.demo)
app.command("login")(login.login)
app.command("logout")(login.logout)
app.add_typer(templates.app, name="template", help="Saved parameters of a method, with a dataset and a base model.")
app.add_typer(datasets.app, name="dataset", help="Pictures with captions, by name and version.")
app.add_typer(models.app, name="model", help="Base models in diffusers format, by name and version.")
app.add_typer(jobs.app, name="job", help="Queue, watch, stop and repeat jobs; what they left.")
app.add_typer(adaptors.app, name="adaptor", help="What training jobs leave: find, show, download, trace, delete.")
app.command("sample")(sample.sample)
app.command("resample")(sample.resample)
app.command("samplings")(sample.samplings)
app.add_typer(methods.app, name="method", help="What can be run, with every parameter.")
app.add_typer(workers.app, name="worker", help="The hosts that train: list, show, drain.")
app.add_typer(projects.app, name="project", help="Whose work lies together: list, show, create.")
app.add_typer(members.app, name="member", help="Who may do what in a project.")
app.add_typer(users.app, name="user", help="People: list, create, change your password.")
app.add_typer(tokens.app, name="token", help="What programs and workers log in with.")
app.add_typer(secrets.app, name="secret", help="What jobs need and nobody may read: tokens of a Hub, of W&B.")
app.command("audit")(audit.audit)
app.command("usage")(usage.usage)

if __name__ == "__main__":
    app()
