"""`python -m api setup`: the first user, project and tokens of an installation."""

import json
import secrets
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from api.accounts.models import Membership, Project, Token
from api.accounts.tokens import token_revoke, user_token_create, worker_token_create

SETUP_TOKEN_NAME = "setup"


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
        values = asdict(
            setup(username=options["username"], project_name=options["project"], new_secrets=options["new_secrets"])
        )
        if options["json"]:
            self.stdout.write(json.dumps(values))
            return
        for name, value in values.items():
            if value is not None:
                self.stdout.write(f"{name}: {value}")


@dataclass(frozen=True)
class Setup:
    """What `setup` created; None for what existed before, since secrets are shown once."""

    created: bool
    user: str
    project: str
    password: str | None = None
    token: str | None = None
    worker_token: str | None = None


@transaction.atomic
def setup(*, username: str, project_name: str, new_secrets: bool = False) -> Setup:
    """Creates the first user, project and tokens where missing. `new_secrets` revokes and replaces existing secrets."""
    project, _ = Project.objects.get_or_create(name=project_name)
    users = get_user_model().objects
    user = users.filter(username=username).first()
    created = user is None
    if user is None:
        user = users.create_superuser(username=username)
    Membership.objects.get_or_create(project=project, user=user, defaults={"role": Membership.Role.ADMIN})
    if not created and not new_secrets:
        return Setup(created=False, user=username, project=project_name)
    for token in Token.objects.filter(name=SETUP_TOKEN_NAME):
        token_revoke(token=token)
    password = secrets.token_urlsafe(12)
    user.set_password(password)
    user.save(update_fields=["password"])
    plain, _ = user_token_create(user=user, project=project, name=SETUP_TOKEN_NAME)
    worker_plain, _ = worker_token_create(name=SETUP_TOKEN_NAME)
    return Setup(created, username, project_name, password, plain, worker_plain)
