"""Reads of accounts, limited to what the caller's token may see."""

from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import Http404

from api.accounts.models import Membership, Project, Token
from api.audit.models import Audit


def memberships_of(token: Token) -> QuerySet[Membership]:
    """The memberships of the token's user, by project name."""
    return Membership.objects.filter(user=token.user).select_related("project").order_by("project__name")


def project_find(token: Token, name: str) -> Project:
    """The token's project, or any project for a superuser with the scope admin. Raises Http404."""
    assert token.project is not None, "worker tokens have no project"
    if token.project.name == name:
        return token.project
    project = Project.objects.filter(name=name).first() if is_superuser_token(token) else None
    if project is None:
        raise Http404(f"There is no project {name!r} that this token opens.")
    return project


def role_of(token: Token, project: Project) -> str | None:
    membership = Membership.objects.filter(project=project, user=token.user).first()
    return membership.role if membership else None


def members_of(project: Project) -> QuerySet[Membership]:
    return Membership.objects.filter(project=project).select_related("user")


def tokens_visible_to(token: Token) -> QuerySet[Token]:
    """Tokens of the project: the caller's; all of them for an admin; those of workers too for a superuser."""
    tokens = Token.objects.select_related("user", "project")
    if is_superuser_token(token):
        return tokens.filter(Q(project=token.project_id) | Q(kind=Token.Kind.WORKER))
    owner = {} if "admin" in token.live_scopes else {"user": token.user}
    return tokens.filter(project=token.project_id, **owner)


def token_find_visible(token: Token, token_id: UUID) -> Token:
    """Raises Http404."""
    visible = tokens_visible_to(token).filter(pk=token_id).first()
    if visible is None:
        raise Http404(f"There is no token {token_id} that you can see.")
    return visible


def audit_of(token: Token, *, object: str = "", actor: str = "", kind: str = "") -> QuerySet[Audit]:
    """The audit of the token's project; a superuser also sees entries without a project."""
    visible = Q(project=token.project_id) | (Q(project=None) if is_superuser_token(token) else Q(pk__in=()))
    filters = {"object": object, "actor": actor, "kind": kind}
    return Audit.objects.filter(visible, **{name: value for name, value in filters.items() if value})


def is_superuser_token(token: Token) -> bool:
    """Whether the token belongs to a superuser and has the scope admin."""
    return bool(token.user is not None and token.user.is_superuser and "admin" in token.live_scopes)
