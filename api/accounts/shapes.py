"""What the endpoints of accounts take and give."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from api.openapi import Schema
from foundation.plain_text import PlainLine
from trainers.contract.spec import Contract

Role = Literal["reader", "writer", "admin"]
Scope = Literal["read", "write", "admin"]
MAX_DAYS = 3660


class LoginRequest(Contract):
    username: str = Field(max_length=150)
    password: str = Field(max_length=1000)
    project: str | None = Field(None, max_length=100)
    """Left out: the first one by name."""
    join: str | None = Field(None, max_length=100)
    """Accepts the invitation to this project and logs in to it: the way in for somebody who is in no project yet."""

    @model_validator(mode="after")
    def _one_project(self) -> Self:
        if self.join is not None and self.project not in (None, self.join):
            raise ValueError(f"expected the same project in project and join, got {self.project!r} and {self.join!r}")
        return self


class LoginShape(Schema):
    token: str
    """Shown here and never again."""
    expires_at: datetime
    project: str


class MeShape(Schema):
    user: str
    project: str
    scopes: list[str]


class PasswordRequest(Contract):
    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


class ProjectRequest(Contract):
    name: str


class ProjectShape(Schema):
    name: str
    role: Role | None
    """The caller's own; null for a superuser who is no member."""
    created: datetime


class MemberRequest(Contract):
    role: Role


class MemberShape(Schema):
    user: str
    role: Role
    accepted: bool
    """False: invited; a member once they accept."""


class InvitationShape(Schema):
    project: str
    role: Role
    by: str
    created: datetime


class InvitationAnswer(Contract):
    project: str = Field(max_length=100)
    accept: bool = Field(True, strict=True)
    """false: decline."""


class UserRequest(Contract):
    username: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,149}$")
    role: Role = "writer"
    """In the project of the caller's token."""


class UserShape(Schema):
    username: str
    active: bool
    superuser: bool
    created: datetime
    last_login: datetime | None


class NewUserShape(Schema):
    username: str
    project: str
    role: Role
    password: str
    """Shown here and never again; the person changes it with `POST me/password`."""


class ResetShape(Schema):
    username: str
    password: str
    """Shown here and never again."""


class TokenRequest(Contract):
    name: PlainLine = Field(min_length=1, max_length=100)
    scopes: list[Scope] = Field(["read"], min_length=1, max_length=3)
    """No more than the caller may do."""
    project: str | None = Field(None, max_length=100)
    """Left out: that of the caller's token."""
    expires_in_days: int | None = Field(90, ge=1, le=MAX_DAYS)
    """null: never."""


class WorkerTokenRequest(Contract):
    name: PlainLine = Field(min_length=1, max_length=100)
    expires_in_days: int | None = Field(None, ge=1, le=MAX_DAYS)
    """null: never."""


class TokenShape(Schema):
    id: UUID
    kind: Literal["user", "worker"]
    name: str
    user: str | None
    project: str | None
    scopes: list[str]
    login: bool
    """Made with a password; ends when the password changes."""
    created: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used: datetime | None
    """To the minute."""


class NewTokenShape(TokenShape):
    token: str
    """Shown here and never again."""


class AuditShape(Schema):
    id: int
    at: datetime
    actor: str
    kind: str
    object: str
    data: dict[str, Any]
