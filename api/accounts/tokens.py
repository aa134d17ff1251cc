"""Creates and checks tokens: a prefix that names the class, then 32 random bytes; only the SHA-256 is stored."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from api.accounts.models import Membership, Project, Token
from api.audit.models import audit_add

USER_PREFIX = "ant_"
WORKER_PREFIX = "anw_"
ATTEMPT_PREFIX = "ana_"
SCOPES = ("read", "write", "admin")
SCOPES_OF_ROLE = {"reader": ("read",), "writer": ("read", "write"), "admin": SCOPES}
SYSTEM = "system"
"""Actor of changes that no request caused."""
LAST_USED_GRAIN = timedelta(seconds=60)
"""`last_used` is written at most this often, so that not every read causes a write."""


def token_new(prefix: str) -> tuple[str, str]:
    """Returns the plain token and the hexadecimal SHA-256 that is stored."""
    plain = prefix + secrets.token_urlsafe(32)
    return plain, token_hash(plain)


def token_hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()


@transaction.atomic
def user_token_create(
    *,
    user: Any,
    project: Project,
    name: str,
    scopes: Iterable[str] = SCOPES,
    expires_at: datetime | None = None,
    login: bool = False,
    by: str = SYSTEM,
) -> tuple[str, Token]:
    """A token that acts as `user` in `project`. Raises ValueError for an unknown scope."""
    chosen = sorted(set(scopes))
    if unknown := [scope for scope in chosen if scope not in SCOPES]:
        raise ValueError(f"unknown scopes {', '.join(unknown)}; known scopes: {', '.join(SCOPES)}")
    plain, sha256 = token_new(USER_PREFIX)
    token = Token.objects.create(
        kind=Token.Kind.USER,
        name=name,
        sha256=sha256,
        project=project,
        user=user,
        scopes=chosen,
        expires_at=expires_at,
        login=login,
    )
    _audit(token, "token_created", by)
    return plain, token


@transaction.atomic
def worker_token_create(*, name: str, expires_at: datetime | None = None, by: str = SYSTEM) -> tuple[str, Token]:
    plain, sha256 = token_new(WORKER_PREFIX)
    token = Token.objects.create(kind=Token.Kind.WORKER, name=name, sha256=sha256, expires_at=expires_at)
    _audit(token, "token_created", by)
    return plain, token


@transaction.atomic
def token_revoke(*, token: Token, by: str = SYSTEM) -> None:
    """Idempotent: keeps the time of the first revocation."""
    if Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
        _audit(token, "token_revoked", by)


def token_find(plain: str, kind: str) -> Token | None:
    """The valid token of that kind; None if it is unknown, expired or revoked, or its user is disabled."""
    live = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    tokens = Token.objects.select_related("user", "project") if kind == Token.Kind.USER else Token.objects.all()
    token = tokens.filter(live, kind=kind, sha256=token_hash(plain)).first()
    if token is None or (token.user is not None and not token.user.is_active):
        return None
    _touch(token)
    return token


def scopes_now(token: Token) -> frozenset[str]:
    """The current scopes of a user token: those that the user's role in the project allows."""
    memberships = Membership.objects.filter(project=token.project_id, user=token.user_id)
    role = memberships.values_list("role", flat=True).first()
    allowed = SCOPES_OF_ROLE[role] if role else ()
    return frozenset(token.scopes) & frozenset(allowed)


def _touch(token: Token) -> None:
    now = timezone.now()
    if token.last_used is None or now - token.last_used > LAST_USED_GRAIN:
        Token.objects.filter(pk=token.pk).update(last_used=now)


def _audit(token: Token, kind: str, by: str) -> None:
    data = {"name": token.name, "kind": token.kind, "user": token.user and token.user.get_username()}
    at, project_id = timezone.now(), token.project_id
    audit_add(actor=by, kind=kind, object=f"token:{token.pk}", at=at, project_id=project_id, data=data)
