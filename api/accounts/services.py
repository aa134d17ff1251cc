"""The first user, project and tokens of an installation."""

import secrets
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction

from api.accounts.models import Membership, Project, Token
from api.accounts.tokens import token_revoke, user_token_create, worker_token_create

SETUP_TOKEN_NAME = "setup"


@dataclass(frozen=True)
class Setup:
    """What `setup` made. What was there before is None: secrets are shown once."""

    created: bool
    user: str
    project: str
    password: str | None = None
    token: str | None = None
    worker_token: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@transaction.atomic
def setup(*, username: str, project_name: str, new_secrets: bool = False) -> Setup:
    """Makes what is missing of the first user, project and tokens. `new_secrets` voids the old ones and makes new."""
    project, _ = Project.objects.get_or_create(name=project_name)
    users = get_user_model().objects
    user = users.filter(username=username).first()
    created = user is None
    if user is None:
        user = users.create_superuser(username=username)
    Membership.objects.get_or_create(project=project, user=user, defaults={"role": Membership.Role.ADMIN})
    if not created and not new_secrets:
        return Setup(created=False, user=username, project=project_name)
    for token in Token.objects.filter(name=SETUP_TOKEN_NAME):
        token_revoke(token=token)
    password = secrets.token_urlsafe(12)
    user.set_password(password)
    user.save(update_fields=["password"])
    plain, _ = user_token_create(user=user, project=project, name=SETUP_TOKEN_NAME)
    worker_plain, _ = worker_token_create(name=SETUP_TOKEN_NAME)
    return Setup(created, username, project_name, password, plain, worker_plain)
