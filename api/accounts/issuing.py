"""Which tokens a token may create: none with more rights than it has itself."""

from datetime import datetime, timedelta

from django.db import transaction
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Membership, Project, Token
from api.accounts.schemas import TokenRequest, WorkerTokenRequest
from api.accounts.selectors import is_superuser_token
from api.accounts.tokens import SCOPES_OF_ROLE, user_token_create, worker_token_create
from api.errors import Problem


@transaction.atomic
def token_issue(*, parent: Token, body: TokenRequest, by: str) -> tuple[str, Token]:
    """A token of the same user. A login may create them for each of the user's projects, an admin token for its own.

    Raises Http404 if the user is no member of the project, Problem(403) for a scope that the caller does not have.
    """
    if not (parent.login or "admin" in parent.live_scopes):
        raise Problem("not_a_login", "Only a login or an admin's token makes tokens.", status=403, hint="Log in first.")
    project = _project(parent, body.project)
    allowed = parent.live_scopes if project.pk == parent.project_id else _scopes_in(parent, project)
    if beyond := sorted(set(body.scopes) - allowed):
        message = f"expected at most {', '.join(sorted(allowed))}, got {', '.join(beyond)}"
        raise Problem("scope_beyond", f"scopes: {message}.", status=403, fields={"scopes": [message]})
    ends = expiry(body.expires_in_days)
    if not parent.login and parent.expires_at is not None:
        ends = min(ends or parent.expires_at, parent.expires_at)
    return user_token_create(
        user=parent.user, project=project, name=body.name, scopes=body.scopes, expires_at=ends, by=by
    )


def worker_token_issue(*, parent: Token, body: WorkerTokenRequest, by: str) -> tuple[str, Token]:
    """For worker hosts, which serve every project. Raises Problem(403) unless the caller is a superuser."""
    if not is_superuser_token(parent):
        raise Problem("superuser_only", "Only a superuser makes worker tokens.", status=403)
    return worker_token_create(name=body.name, expires_at=expiry(body.expires_in_days), by=by)


def expiry(days: int | None) -> datetime | None:
    return None if days is None else timezone.now() + timedelta(days=days)


def _project(parent: Token, name: str | None) -> Project:
    assert parent.project is not None, "worker tokens make no tokens"
    if name is None or name == parent.project.name:
        return parent.project
    membership = Membership.objects.filter(user=parent.user, project__name=name).select_related("project").first()
    if membership is None or not parent.login:
        raise Http404(f"There is no project {name!r} that this token opens.")
    return membership.project


def _scopes_in(parent: Token, project: Project) -> frozenset[str]:
    role = Membership.objects.get(user=parent.user, project=project).role
    return frozenset(SCOPES_OF_ROLE[role])
