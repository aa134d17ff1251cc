"""The `anneal` command: which commands there are. The module of a command is imported when the command is called."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from cli.errors import CliError, Exit

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # httpx's own command line: it goes without
TRAINING, PLATFORM, PEOPLE = "Training", "Platform", "People and access"


@dataclass(frozen=True)
class Entry:
    """A command, or a group of them (a `typer.Typer`)."""

    panel: str
    name: str
    place: str
    """Module and attribute."""
    summary: str
    """For the list of commands; of a command its docstring, of a group its help."""

    def load(self) -> Any:
        target, app = attribute(self.place), typer.Typer()
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=self.name, help=self.summary, rich_help_panel=self.panel)
        else:
            app.command(self.name, rich_help_panel=self.panel)(target)
        return get_group(app).commands[self.name]


ENTRIES = (
    Entry(
        TRAINING,
        "sample",
        "cli.commands.sample:sample",
        "Generate images with a base model and adaptors; --model defaults to the base of the first adaptor.",
    ),
    Entry(
        TRAINING,
        "generate",
        "cli.commands.generate:generate",
        "Answer prompts or fill gaps with a text-diffusion model; --model defaults to the base of the first adaptor.",
    ),
    Entry(
        TRAINING,
        "resample",
        "cli.commands.sample:resample",
        "Repeat an earlier sampling; options override its parameters.",
    ),
    Entry(
        TRAINING,
        "samplings",
        "cli.commands.sample:samplings",
        "Samplings of the project, newest first; `anneal resample JOB` repeats one.",
    ),
    Entry(
        PLATFORM,
        "up",
        "cli.commands.platform:up",
        "Run the whole platform on this machine until Ctrl-C: API, queue, dispatcher, one worker.",
    ),
    Entry(
        PLATFORM,
        "demo",
        "cli.commands.platform:demo",
        "Train the example adaptor, compare it with its base, stop. Takes a few minutes.",
    ),
    Entry(PLATFORM, "usage", "cli.commands.operations:usage", "Storage that the project uses, by kind."),
    Entry(PEOPLE, "login", "cli.commands.users:login", "Log in: save the API's URL and a token."),
    Entry(PEOPLE, "logout", "cli.commands.users:logout", "Log out: revoke the login's token and delete it."),
    Entry(
        PEOPLE,
        "audit",
        "cli.commands.operations:audit",
        "Who changed what in the project, newest first; admins only. --json has full ids and the changes.",
    ),
    Entry(
        TRAINING,
        "template",
        "cli.commands.templates:app",
        "Saved parameters of a method, with a dataset and a base model.",
    ),
    Entry(TRAINING, "dataset", "cli.commands.datasets:app", "Images with captions, or rows, by name and version."),
    Entry(TRAINING, "model", "cli.commands.models:app", "Base models of images and of text, by name and version."),
    Entry(TRAINING, "job", "cli.commands.jobs:app", "Queue, watch, stop and repeat jobs; what they left."),
    Entry(
        TRAINING,
        "adaptor",
        "cli.commands.adaptors:app",
        "What training jobs leave: find, show, download, trace, delete.",
    ),
    Entry(TRAINING, "method", "cli.commands.methods:app", "What can be run, with every parameter."),
    Entry(PLATFORM, "worker", "cli.commands.operations:app", "The hosts that train: list, show, drain."),
    Entry(PEOPLE, "project", "cli.commands.users:project_app", "Whose work lies together: list, show, create."),
    Entry(PEOPLE, "member", "cli.commands.users:members_app", "Who may do what in a project."),
    Entry(PEOPLE, "user", "cli.commands.users:app", "People: list, create, change your password."),
    Entry(PEOPLE, "token", "cli.commands.credentials:app", "What programs and workers log in with."),
    Entry(
        PEOPLE,
        "secret",
        "cli.commands.credentials:secrets_app",
        "What jobs need and nobody may read: tokens of a Hub, of W&B.",
    ),
)


def attribute(place: str) -> Any:
    """`module:name`, imported now. The only late import of the command line: HTTP, YAML and tables cost most of the
    time of `anneal --help`, which needs none of them."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Group(TyperGroup):
    """Lists commands by their entries alone, and imports the one that is called.

    Ends a command that failed with a sentence and an exit code instead of a traceback.
    """

    wants_json = False

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for entry in ENTRIES:
            self.add_command(TyperCommand(entry.name, help=entry.summary, rich_help_panel=entry.panel))

    def load(self, name: str) -> None:
        """Puts the command in the place of its entry."""
        for entry in ENTRIES:
            if entry.name == name:
                self.add_command(entry.load())

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.load(args[0])
        return super().resolve_command(ctx, args)

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
            attribute("cli.output:print_error")(error, as_json=self.wants_json)
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
        attribute("cli.output:out").print(f"anneal {attribute('importlib.metadata:version')('anneal')}")
        raise typer.Exit


@app.callback()
def anneal(
    _: Annotated[
        bool, typer.Option("--version", callback=version_print, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None: ...


if __name__ == "__main__":
    app()
