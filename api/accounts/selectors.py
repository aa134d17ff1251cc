"""Reads of accounts, always as far as the caller's token reaches."""

from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import Http404

from api.accounts.models import Membership, Project, Token
from api.audit.models import Audit


def memberships_of(token: Token) -> QuerySet[Membership]:
    """The projects that the token's person is a member of, by name."""
    return Membership.objects.filter(user=token.user).select_related("project").order_by("project__name")


def project_find(token: Token, name: str) -> Project:
    """The token's own project, or any for a superuser with the scope admin. Raises Http404."""
    assert token.project is not None, "worker tokens have no project"
    if token.project.name == name:
        return token.project
    found = Project.objects.filter(name=name).first() if rules_all(token) else None
    if found is None:
        raise Http404(f"There is no project {name!r} that this token opens.")
    return found


def role_of(token: Token, project: Project) -> str | None:
    found = Membership.objects.filter(project=project, user=token.user).first()
    return found.role if found else None


def members_of(project: Project) -> QuerySet[Membership]:
    return Membership.objects.filter(project=project).select_related("user")


def tokens_visible_to(token: Token) -> QuerySet[Token]:
    """Of the token's project: the caller's own, for an admin everybody's; for a superuser those of workers too."""
    found = Token.objects.select_related("user", "project")
    if rules_all(token):
        return found.filter(Q(project=token.project_id) | Q(kind=Token.Kind.WORKER))
    own = {} if "admin" in token.live_scopes else {"user": token.user}
    return found.filter(project=token.project_id, **own)


def token_find_visible(token: Token, token_id: UUID) -> Token:
    """Raises Http404."""
    found = tokens_visible_to(token).filter(pk=token_id).first()
    if found is None:
        raise Http404(f"There is no token {token_id} that you can see.")
    return found


def audit_of(token: Token, *, object: str = "", actor: str = "", kind: str = "") -> QuerySet[Audit]:
    """What happened in the token's project; a superuser also reads what belongs to no project."""
    whose = Q(project=token.project_id) | (Q(project=None) if rules_all(token) else Q(pk__in=()))
    wanted = {"object": object, "actor": actor, "kind": kind}
    return Audit.objects.filter(whose, **{name: value for name, value in wanted.items() if value})


def rules_all(token: Token) -> bool:
    """A superuser, through a token that was not made for less."""
    return bool(token.user is not None and token.user.is_superuser and "admin" in token.live_scopes)
