"""Request and response schemas of accounts."""

import re
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field, field_validator, model_validator

from api.accounts.models import Invitation, Membership, Project, ProjectSecret, Token
from api.audit.models import Audit
from api.openapi import Schema
from foundation.plain_text import PlainLine
from trainers.contract.spec import Contract

Role = Literal["reader", "writer", "admin"]
Scope = Literal["read", "write", "admin"]
MAX_DAYS = 3660
SECRET_VALUE = r"^[!-~]{8,4000}$"


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

    @classmethod
    def of(cls, project: Project, role: str | None) -> Self:
        return cls.model_validate({"name": project.name, "role": role, "created": project.created})


class MemberRequest(Contract):
    role: Role


class MemberShape(Schema):
    user: str
    role: Role
    accepted: bool
    """False: invited; a member once they accept."""

    @classmethod
    def of(cls, member: Membership | Invitation) -> Self:
        accepted = isinstance(member, Membership)
        return cls.model_validate({"user": member.user.get_username(), "role": member.role, "accepted": accepted})


class InvitationShape(Schema):
    project: str
    role: Role
    by: str
    created: datetime

    @classmethod
    def of(cls, invitation: Invitation) -> Self:
        by = invitation.invited_by.removeprefix("user:")
        names = {"project": invitation.project.name, "role": invitation.role, "by": by}
        return cls.model_validate({**names, "created": invitation.created})


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

    @classmethod
    def of(cls, user: Any) -> Self:
        return cls(
            username=user.username,
            active=user.is_active,
            superuser=user.is_superuser,
            created=user.date_joined,
            last_login=user.last_login,
        )


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

    @classmethod
    def of(cls, token: Token, /, **others: str) -> Self:
        columns = ("id", "kind", "name", "scopes", "login", "created", "expires_at", "revoked_at", "last_used")
        values: dict[str, Any] = {name: getattr(token, name) for name in columns}
        values["user"] = token.user and token.user.get_username()
        values["project"] = token.project and token.project.name
        return cls.model_validate({**values, **others})


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

    @classmethod
    def of(cls, row: Audit) -> Self:
        return cls.model_validate(row, from_attributes=True)


class SecretRequest(Contract):
    kind: Literal["hub", "wandb", "generic"]
    """Says where a trainer finds it: HF_TOKEN, WANDB_API_KEY, or ANNEAL_SECRET_<NAME>."""
    value: str = Field(json_schema_extra={"writeOnly": True, "pattern": SECRET_VALUE})
    """8 to 4000 printable ASCII characters without blanks, so that it can be found in a log and masked."""

    @field_validator("value", mode="before")
    @classmethod
    def _maskable(cls, value: object) -> object:
        """Before any check that would repeat the value in its error."""
        if not isinstance(value, str) or not re.fullmatch(SECRET_VALUE, value):
            raise ValueError("expected 8 to 4000 printable ASCII characters without blanks")
        return value


class SecretShape(BaseModel):
    name: str
    kind: str
    variable: str
    created: datetime
    rotated: datetime | None
    """When the value was last replaced."""

    @classmethod
    def of(cls, secret: ProjectSecret) -> Self:
        return cls.model_validate(secret, from_attributes=True)
