"""Rate limits: how often one account, address or token may ask in a minute, counted in the database by all processes.

The minutes are those of the clock, so two minutes' worth may be spent around a full minute; enough against guessing.
"""

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any

from django.db import connection
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from api.accounts.models import RateCount, Token
from api.environment import environment
from api.server.client_address import client_address

MINUTE_SECONDS = 60
KEPT_MINUTES = 5
COUNT = """
INSERT INTO accounts_ratecount (key, minute, count) VALUES (%s, %s, 1)
ON CONFLICT (key) DO UPDATE SET minute = excluded.minute,
    count = CASE WHEN accounts_ratecount.minute = excluded.minute THEN accounts_ratecount.count + 1 ELSE 1 END
RETURNING count
"""
"""One statement, so that two processes never both see the last free place."""


def asked(*, what: str, who: str) -> int:
    """Counts one more and says how often that is in this minute. Forgets those of long ago."""
    minute = int(time.time() // MINUTE_SECONDS)
    key = hashlib.sha256(f"{what}:{who}".encode()).hexdigest()
    with connection.cursor() as cursor:
        cursor.execute(COUNT, [key, minute])
        count = int(cursor.fetchone()[0])
    if count == 1:
        RateCount.objects.filter(minute__lt=minute - KEPT_MINUTES).delete()
    return count


class MinuteRate(BaseThrottle):
    """DRF's hook: refuses with 429 and the seconds to the next minute as Retry-After."""

    def wait(self) -> float:
        return math.ceil(MINUTE_SECONDS - time.time() % MINUTE_SECONDS)


class LoginRate(MinuteRate):
    """By account and by address; both count each try, right or wrong, before the password is looked at."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002 DRF's signature
        return login_allowed(request, lambda: _account(request))


def login_allowed(request: Any, account_of: Callable[[], str | None]) -> bool:
    """Counts a try from the request's address and, where it is known, as its account.

    `account_of` may parse the body, so it is called only where the address has tries left.
    """
    limits = environment()
    if asked(what="login from", who=client_address(request)) > limits.logins_per_minute_address:
        return False
    account = account_of()
    return not account or asked(what="login as", who=account[:150].casefold()) <= limits.logins_per_minute_account


class ClaimRate(MinuteRate):
    """By worker token, which all hosts of an installation may share."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002
        assert isinstance(request.auth, Token), "claims are made with a worker token"
        return asked(what="claim", who=str(request.auth.pk)) <= environment().claims_per_minute


class WriteRate(MinuteRate):
    """By user token, for everything but reading."""

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002
        if request.method in SAFE_METHODS or not isinstance(request.auth, Token) or request.auth.user_id is None:
            return True
        return asked(what="write", who=str(request.auth.pk)) <= environment().writes_per_minute


def _account(request: Request) -> str | None:
    """Whose password is tried: the caller's own with a token, else the name in the body."""
    if isinstance(request.auth, Token):
        return str(request.user.get_username()).casefold()
    given = request.data.get("username") if isinstance(request.data, dict) else None
    return given[:150].casefold() if isinstance(given, str) else None
