"""`python -m api hold`: run on a restored copy before its API, dispatcher and workers start."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

from api.jobs.services.control import jobs_hold


class Command(BaseCommand):
    help = "Pause every queued and live job of a restored copy, and say how to log in to it."

    def handle(self, *_: Any, **options: Any) -> None:  # noqa: ARG002 Django's signature
        count = jobs_hold()
        superusers = get_user_model().objects.filter(is_superuser=True, is_active=True).order_by("pk")
        names = ", ".join(user.get_username() for user in superusers) or "none"
        self.stdout.write(
            f"{count} jobs are paused; `anneal job resume ID` goes on with one.\n"
            f"Log in with the passwords and tokens of the original. Superusers: {names}; "
            "`python -m api changepassword NAME` sets a new password, `python -m api setup --new-secrets` new tokens."
        )
