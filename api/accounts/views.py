"""Login and `GET me`."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import authenticate
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, Field
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle
from rest_framework.views import APIView

from api.accounts.models import Membership
from api.accounts.tokens import user_token_create
from api.auth import HasScope, TokenAuthentication, project_of, token_of
from api.errors import Problem
from trainers.spec import Contract

LOGIN_DAYS = 30


class LoginRequest(Contract):
    username: str = Field(max_length=150)
    password: str = Field(max_length=1000)
    project: str | None = None
    """Left out: the first one by name."""


class LoginShape(BaseModel):
    token: str
    expires_at: datetime
    project: str


class MeShape(BaseModel):
    user: str
    project: str
    scopes: list[str]


class LoginRate(AnonRateThrottle):
    """By address of the caller, counted in each process."""

    rate = "30/min"


class LoginView(APIView):
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (LoginRate,)

    @extend_schema(request=LoginRequest, responses=LoginShape, operation_id="login", auth=[])
    def post(self, request: Request) -> Response:
        """A user token for a name and a password."""
        wanted = LoginRequest.model_validate(request.data)
        user = authenticate(request=request, username=wanted.username, password=wanted.password)
        if user is None:
            said = "The user name or the password is wrong."
            raise Problem("wrong_password", said, status=401, hint="Passwords are set by an admin.")
        project = _project_for(user, wanted.project)
        expires_at = timezone.now() + timedelta(days=LOGIN_DAYS)
        plain, _ = user_token_create(user=user, project=project, name="login", expires_at=expires_at)
        return Response({"token": plain, "expires_at": expires_at, "project": project.name})


class MeView(APIView):
    authentication_classes = (TokenAuthentication,)
    permission_classes = (HasScope,)

    @extend_schema(responses=MeShape, operation_id="me")
    def get(self, request: Request) -> Response:
        """Who the token speaks for."""
        return Response(
            {
                "user": request.user.get_username(),
                "project": project_of(request).name,
                "scopes": sorted(token_of(request).live_scopes),
            }
        )


def _project_for(user: Any, name: str | None) -> Any:
    memberships = Membership.objects.filter(user=user).select_related("project").order_by("project__name")
    if name is not None:
        memberships = memberships.filter(project__name=name)
    membership = memberships.first()
    if membership is None:
        raise PermissionDenied(f"You are not a member of {'any project' if name is None else f'project {name!r}'}.")
    return membership.project
