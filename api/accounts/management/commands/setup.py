import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from api.accounts.services import setup


class Command(BaseCommand):
    help = (
        "Make the first user, project, user token and worker token. Running it again makes nothing and shows no secret."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username", default="admin")
        parser.add_argument("--project", default="default")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")
        parser.add_argument(
            "--new-secrets", action="store_true", help="Void the old password and tokens, make new ones."
        )

    def handle(self, *_: Any, **options: Any) -> None:
        made = setup(
            username=options["username"], project_name=options["project"], new_secrets=options["new_secrets"]
        ).as_dict()
        if options["json"]:
            self.stdout.write(json.dumps(made))
            return
        for name, value in made.items():
            if value is not None:
                self.stdout.write(f"{name}: {value}")
