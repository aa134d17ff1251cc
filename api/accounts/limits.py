"""Rate limits per account, address or token and minute, counted in the database by all processes.

Minutes are those of the clock, so twice the limit fits around the change of a minute; enough against guessing.
"""

import hashlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import connection
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from unfold.forms import AuthenticationForm as UnfoldForm

from api.accounts.models import RateCount, Token
from api.environment import environment

MINUTE_SECONDS = 60
MAX_AGE_MINUTES = 5
COUNT = """
INSERT INTO accounts_ratecount (key, minute, count) VALUES (%s, %s, 1)
ON CONFLICT (key) DO UPDATE SET minute = excluded.minute,
    count = CASE WHEN accounts_ratecount.minute = excluded.minute THEN accounts_ratecount.count + 1 ELSE 1 END
RETURNING count
"""
"""One statement, so that two processes never both get the last hit."""


def hit_count(*, action: str, client: str) -> int:
    """Counts a hit and returns the number of hits in this minute. Deletes old counters."""
    minute = int(time.time() // MINUTE_SECONDS)
    key = hashlib.sha256(f"{action}:{client}".encode()).hexdigest()
    with connection.cursor() as cursor:
        cursor.execute(COUNT, [key, minute])
        count = int(cursor.fetchone()[0])
    if count == 1:
        RateCount.objects.filter(minute__lt=minute - MAX_AGE_MINUTES).delete()
    return count


class MinuteRate(BaseThrottle):
    """A throttle of DRF: the response is 429 with the seconds to the next minute as Retry-After."""

    def wait(self) -> float:
        return math.ceil(MINUTE_SECONDS - time.time() % MINUTE_SECONDS)


class LoginRate(MinuteRate):
    """Per account and address; both count every attempt, right or wrong, before the password is checked."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002 DRF's signature
        return login_allowed(request, lambda: _account(request))


def login_allowed(request: Any, account_of: Callable[[], str | None]) -> bool:
    """Counts an attempt from the request's address and, if known, for its account.

    `account_of` may parse the body, so it is called only if the address is below its limit.
    """
    limits = environment()
    if hit_count(action="login from", client=_address(request)) > limits.logins_per_minute_address:
        return False
    account = account_of()
    return (
        not account or hit_count(action="login as", client=account[:150].casefold()) <= limits.logins_per_minute_account
    )


class ClaimRate(MinuteRate):
    """Per worker token, which all hosts of an installation may share."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002
        assert isinstance(request.auth, Token), "claims are made with a worker token"
        return hit_count(action="claim", client=str(request.auth.pk)) <= environment().claims_per_minute


class WriteRate(MinuteRate):
    """Per user token, for all unsafe methods."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002
        if request.method in SAFE_METHODS or not isinstance(request.auth, Token) or request.auth.user_id is None:
            return True
        return hit_count(action="write", client=str(request.auth.pk)) <= environment().writes_per_minute


def _address(request: Any) -> str:
    """The client's address, as set by `api.server.http_protocol.proxied`; IPv6 needs at most 45 characters."""
    return str(request.META.get("REMOTE_ADDR", ""))[:45]


def _account(request: Request) -> str | None:
    """The account whose password is checked: the token's user, else the name in the body."""
    if isinstance(request.auth, Token):
        return str(request.user.get_username()).casefold()
    username = request.data.get("username") if isinstance(request.data, dict) else None
    return username[:150].casefold() if isinstance(username, str) else None


if TYPE_CHECKING:
    from django.contrib.admin.forms import AdminAuthenticationForm as Form
else:
    Form = UnfoldForm


class LimitedLogin(Form):
    """The panel's login form, which shares the rate limit of `POST auth/login`."""

    def clean(self) -> dict[str, Any]:
        """Counts the attempt before the password is checked."""
        username = str(self.cleaned_data.get("username", ""))
        if not login_allowed(self.request, lambda: username):
            raise ValidationError("Too many tries for this account or address; wait a minute.")
        return super().clean()
