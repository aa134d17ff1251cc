from typing import Any

from cryptography.fernet import Fernet
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Print a new key for ANNEAL_SECRETS_KEYS."
    requires_system_checks: list[str] = []  # noqa: RUF012  Django's name for it

    def handle(self, *_: Any, **__: Any) -> None:
        self.stdout.write(Fernet.generate_key().decode())
