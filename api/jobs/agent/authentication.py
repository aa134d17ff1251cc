"""Attempt tokens (`ana_...`): created by the claim, invalid after its replay, valid for one attempt only."""

from dataclasses import dataclass
from typing import ClassVar

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from api.accounts.authentication import bearer
from api.accounts.tokens import ATTEMPT_PREFIX, token_hash
from api.jobs.models import Attempt


@dataclass(frozen=True)
class AttemptPrincipal:
    attempt: Attempt
    is_authenticated: ClassVar[bool] = True
    is_active: ClassVar[bool] = True


class AttemptAuthentication(BaseAuthentication):
    """Sets request.auth to the Attempt with its id alone: heartbeats and events are frequent, and their services lock
    and read what they need. Accepts attempts that have ended: the services decide what those may still send."""

    def authenticate(self, request: Request) -> tuple[AttemptPrincipal, Attempt] | None:
        plain = bearer(request)
        if plain is None:
            return None
        try:
            attempt = Attempt.objects.only("pk").get(
                token_hash=token_hash(plain) if plain.startswith(ATTEMPT_PREFIX) else ""
            )
        except Attempt.DoesNotExist:
            message = f"Expected a valid attempt token ({ATTEMPT_PREFIX}...); stop the process tree."
            raise AuthenticationFailed(message) from None
        return AttemptPrincipal(attempt), attempt

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 DRF's hook
        return "Bearer"


class OwnAttempt(BasePermission):
    message = "The token belongs to another attempt."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, Attempt) and str(request.auth.pk) == str(view.kwargs["attempt_id"])
