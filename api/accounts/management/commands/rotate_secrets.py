from typing import Any

from django.core.management.base import BaseCommand, CommandError

from api.accounts.secrets import secrets_rotate
from api.errors import Problem


class Command(BaseCommand):
    help = (
        "Encrypt all project secrets anew with the first key of ANNEAL_SECRETS_KEYS. Put a new key first, restart all "
        "processes of the API, run this, then take the old key away."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            count, unreadable = secrets_rotate(by="command:rotate_secrets")
        except Problem as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from None
        self.stdout.write(f"{count} secrets are encrypted with the first key.")
        if unreadable:
            raise CommandError("\n".join([*unreadable, "Put these again, or bring back the key that made them."]))
