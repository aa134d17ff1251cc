"""The `anneal` command."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cli.commands import (
    adaptors,
    credentials,
    datasets,
    generate,
    jobs,
    methods,
    models,
    operations,
    platform,
    sample,
    templates,
    users,
)
from cli.errors import CliError, Exit
from cli.output import out, print_error


class Group(TyperGroup):
    """Ends a command that failed with a sentence and an exit code instead of a traceback."""

    wants_json = False

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        self.wants_json = "--json" in (sys.argv if args is None else args)
        return super().main(args, *rest, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CliError, OSError, TyperException) as cause:
            if isinstance(cause, TyperException) and not self.wants_json:
                raise  # it shows the usage line and how to get help
            error = error_of(cause)
            print_error(error, as_json=self.wants_json)
            raise typer.Exit(error.exit_code) from cause


def error_of(cause: CliError | OSError | TyperException) -> CliError:
    """A wrong command line says how to get help; a file that cannot be read or written is named by its path."""
    if isinstance(cause, CliError):
        return cause
    if isinstance(cause, OSError):
        path = cause.filename or ""
        return CliError(f"{path}: {cause.strerror}" if path else str(cause), "Give another path.")
    command = getattr(getattr(cause, "ctx", None), "command_path", "anneal")
    return CliError(cause.format_message(), f"`{command} --help` says how.", code="usage", exit_code=Exit.USAGE)


app = typer.Typer(
    cls=Group,
    name="anneal",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train diffusion models: write a template, queue it, watch the job, use the adaptor.\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 job cancelled or paused, 4 the API does not answer.",
)


def version_print(requested: bool) -> None:
    if requested:
        out.print(f"anneal {version('anneal')}")
        raise typer.Exit


@app.callback()
def anneal(
    _: Annotated[
        bool, typer.Option("--version", callback=version_print, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None: ...


TRAINING, PLATFORM, PEOPLE = "Training", "Platform", "People and access"
COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (TRAINING, "sample", sample.sample),
    (TRAINING, "generate", generate.generate),
    (TRAINING, "resample", sample.resample),
    (TRAINING, "samplings", sample.samplings),
    (PLATFORM, "up", platform.up),
    (PLATFORM, "demo", platform.demo),
    (PLATFORM, "usage", operations.usage),
    (PEOPLE, "login", users.login),
    (PEOPLE, "logout", users.logout),
    (PEOPLE, "audit", operations.audit),
)
GROUPS = (
    (TRAINING, "template", templates.app, "Saved parameters of a method, with a dataset and a base model."),
    (TRAINING, "dataset", datasets.app, "Images with captions, or rows, by name and version."),
    (TRAINING, "model", models.app, "Base models of images and of text, by name and version."),
    (TRAINING, "job", jobs.app, "Queue, watch, stop and repeat jobs; what they left."),
    (TRAINING, "adaptor", adaptors.app, "What training jobs leave: find, show, download, trace, delete."),
    (TRAINING, "method", methods.app, "What can be run, with every parameter."),
    (PLATFORM, "worker", operations.app, "The hosts that train: list, show, drain."),
    (PEOPLE, "project", users.project_app, "Whose work lies together: list, show, create."),
    (PEOPLE, "member", users.members_app, "Who may do what in a project."),
    (PEOPLE, "user", users.app, "People: list, create, change your password."),
    (PEOPLE, "token", credentials.app, "What programs and workers log in with."),
    (PEOPLE, "secret", credentials.secrets_app, "What jobs need and nobody may read: tokens of a Hub, of W&B."),
)
for panel, name, command in COMMANDS:
    app.command(name, rich_help_panel=panel)(command)
for panel, name, group, summary in GROUPS:
    app.add_typer(group, name=name, help=summary, rich_help_panel=panel)

if __name__ == "__main__":
    app()
