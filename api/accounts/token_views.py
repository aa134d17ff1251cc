"""Tokens: create, list, revoke. The plain text is only in the response to the call that created it."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, token_of
from api.accounts.issuing import token_issue, worker_token_issue
from api.accounts.schemas import NewTokenShape, TokenRequest, TokenShape, WorkerTokenRequest
from api.accounts.selectors import token_find_visible, tokens_visible_to
from api.accounts.tokens import token_revoke
from api.openapi import page_of
from api.paging import PAGE, Cursor


class TokensView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="tokens_list", parameters=[*PAGE], responses=page_of(TokenShape))
    def get(self, request: Request) -> Response:
        """The caller's own of this project; an admin's list has all of the project. Newest first, dead ones too."""
        tokens = tokens_visible_to(token_of(request))
        return Cursor().respond(tokens, request, lambda rows: map(TokenShape.of, rows))

    @extend_schema(operation_id="tokens_create", request=TokenRequest, responses={201: NewTokenShape})
    def post(self, request: Request) -> Response:
        """A token of the same person with no more scopes. Needs a login or an admin's token."""
        body = TokenRequest.model_validate(request.data)
        plain, token = token_issue(parent=token_of(request), body=body, by=actor_of(request))
        return Response(NewTokenShape.of(token, token=plain).model_dump(), status=201)


class WorkerTokensView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="tokens_create_worker", request=WorkerTokenRequest, responses={201: NewTokenShape})
    def post(self, request: Request) -> Response:
        """A token for worker hosts, which serve every project. For superusers."""
        body = WorkerTokenRequest.model_validate(request.data)
        plain, token = worker_token_issue(parent=token_of(request), body=body, by=actor_of(request))
        return Response(NewTokenShape.of(token, token=plain).model_dump(), status=201)


class TokenView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="tokens_show", responses=TokenShape)
    def get(self, request: Request, token_id: UUID) -> Response:
        """One token, without its secret."""
        return Response(TokenShape.of(token_find_visible(token_of(request), token_id)).model_dump())

    @extend_schema(operation_id="tokens_revoke", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        """Ends the token for good; again changes nothing."""
        token_revoke(token=token_find_visible(token_of(request), token_id), by=actor_of(request))
        return Response(status=204)
