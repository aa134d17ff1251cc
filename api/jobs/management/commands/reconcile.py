"""`python -m api reconcile`: objects of the storage that no row names."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from api.environment import environment
from api.jobs.services.reconcile import reconcile_pass

SHOWN = 50


class Command(BaseCommand):
    help = "List objects of the storage that no row names; with --remove, delete those that stayed so long enough."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--remove", action="store_true", help="delete what is older than ANNEAL_UNREFERENCED_HOURS")

    def handle(self, *_: Any, **options: Any) -> None:
        listed, unreferenced, removed = 0, [], 0
        while True:
            result = reconcile_pass(remove=options["remove"])
            listed += result.listed
            removed += len(result.removed)
            unreferenced += result.unreferenced
            if result.is_last:
                break
        for key in unreferenced[:SHOWN]:
            self.stdout.write(key)
        if len(unreferenced) > SHOWN:
            self.stdout.write(f"... and {len(unreferenced) - SHOWN} more")
        self.stdout.write(f"{listed} objects, {len(unreferenced)} that no row names, {removed} removed")
        if not options["remove"]:
            hours = f"{environment().unreferenced_hours:g}"
            self.stdout.write(f"nothing was deleted; --remove deletes what has had no row for {hours} hours")
