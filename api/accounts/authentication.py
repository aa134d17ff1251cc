"""Authentication by bearer token. A token of one class (user, worker, attempt) is never accepted for another."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from api.accounts.models import Project, Token
from api.accounts.tokens import USER_PREFIX, WORKER_PREFIX, scopes_now, token_find


@dataclass(frozen=True)
class WorkerPrincipal:
    """Takes the place of a user in `request.user`; the token is `request.auth`."""

    token: Token
    is_authenticated: ClassVar[bool] = True
    is_active: ClassVar[bool] = True


def bearer(request: Any) -> str | None:
    """The bearer token of the Authorization header, or None. Accepts requests of Django and of DRF."""
    words = get_authorization_header(request).split()
    if len(words) != 2 or words[0].lower() != b"bearer":
        return None
    return str(words[1].decode("latin-1"))


class TokenAuthentication(BaseAuthentication):
    """`ant_...`: request.user is the user, request.auth the Token, bound to one project."""

    def authenticate(self, request: Request) -> tuple[Any, Token] | None:
        token = _token_of(request, USER_PREFIX, Token.Kind.USER)
        if token is None:
            return None
        token.live_scopes = scopes_now(token)
        if not token.live_scopes:
            raise AuthenticationFailed("The token's owner is no longer a member of its project.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - DRF's hook
        return "Bearer"


class WorkerAuthentication(BaseAuthentication):
    """`anw_...`: request.user is a WorkerPrincipal, request.auth the Token."""

    def authenticate(self, request: Request) -> tuple[WorkerPrincipal, Token] | None:
        token = _token_of(request, WORKER_PREFIX, Token.Kind.WORKER)
        return None if token is None else (WorkerPrincipal(token), token)

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - DRF's hook
        return "Bearer"


class HasScope(BasePermission):
    """Safe methods need the scope `read`, others `write`, unless the view sets `read_scope` or `write_scope`."""

    message = "The token does not allow this; it needs another scope."

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, Token) or request.auth.kind != Token.Kind.USER:
            return False
        kind = "read" if request.method in SAFE_METHODS else "write"
        scope = getattr(view, f"{kind}_scope", kind)
        return scope in request.auth.live_scopes


def project_of(request: Request) -> Project:
    """The project that the caller's token is bound to: every queryset is limited to it."""
    token = token_of(request)
    assert token.project is not None, "project_of is for user tokens; worker tokens have no project"
    return token.project


def actor_of(request: Request) -> str:
    """The actor of audit entries: the user, whichever token they used."""
    return f"user:{request.user.get_username()}"


def token_of(request: Request) -> Token:
    assert isinstance(request.auth, Token), f"the view needs a token of ours, got {type(request.auth).__name__}"
    return request.auth


def _token_of(request: Request, prefix: str, kind: str) -> Token | None:
    plain = bearer(request)
    if plain is None:
        return None
    if not plain.startswith(prefix) or (token := token_find(plain, kind)) is None:
        raise AuthenticationFailed(f"Expected a valid {kind} token ({prefix}...); it is unknown, expired or revoked.")
    return token
