"""One schema for every error: `{code, message, hint, fields}`. Never a traceback."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from rest_framework import exceptions
from rest_framework.response import Response

from storage import StorageUnavailableError

log = logging.getLogger(__name__)

Fields = dict[str, list[Any]]


class ErrorShape(BaseModel):
    """Every answer but 2xx and 3xx."""

    code: str
    """For programs; does not change when the wording of the message does."""
    message: str
    hint: str
    fields: Fields
    """Messages by the dotted path of the value, as in params.lora_r."""


class Problem(ValueError):  # noqa: N818 the caller's mistake, not ours
    """An error response with its code and HTTP status; raised by services, returned by views unchanged."""

    def __init__(
        self, code: str, message: str, *, status: int = 400, hint: str = "", fields: Fields | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.hint = hint
        self.fields = fields or {}

    def body(self) -> dict[str, Any]:
        return ErrorShape(code=self.code, message=self.message, hint=self.hint, fields=self.fields).model_dump()


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:  # noqa: ARG001 DRF's signature
    """DRF's hook. None means a fault of ours: Django logs it and responds 500 through `server_error`.

    Nothing is rolled back here: requests are not transactions (ATOMIC_REQUESTS is off), services are.
    """
    problem = problem_of(exc)
    if problem is None:
        return None
    headers = {}
    if isinstance(exc, exceptions.APIException):
        if getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = exc.auth_header  # type: ignore[attr-defined]  # set by DRF's views
        if getattr(exc, "wait", None):
            headers["Retry-After"] = str(int(exc.wait))  # type: ignore[attr-defined]  # Throttled
    return Response(problem.body(), status=problem.status, headers=headers)


def problem_of(exc: BaseException) -> Problem | None:
    """The error response for `exc`; None where the fault is ours."""
    match exc:
        case Problem():
            return exc
        case PydanticError():
            return invalid(fields_of(exc), count=exc.error_count())
        case exceptions.ValidationError():
            return invalid(_flatten(exc.detail))
        case DjangoValidationError():
            return invalid({"": exc.messages})
        case exceptions.ParseError():
            return Problem("bad_json", f"The body cannot be read: {exc.detail}", hint="Send one JSON object as UTF-8.")
        case Http404() | exceptions.NotFound():
            return Problem("not_found", _not_found(exc), status=404)
        case DjangoPermissionDenied():
            return Problem("forbidden", str(exc) or "You may not do this.", status=403)
        case exceptions.APIException():
            return Problem(_code(exc), str(exc.detail), status=exc.status_code, hint=HINTS.get(exc.status_code, ""))
        case StorageUnavailableError():
            log.warning("the storage failed: %s", exc)
            hint = "Try again; an admin sees the cause in the log and in /readyz."
            return Problem("storage_unavailable", "The storage does not answer.", status=503, hint=hint)
        case OperationalError() | InterfaceError():
            log.error("the database failed: %s", exc)
            hint = "Try again; an admin sees the cause in the log and in /readyz."
            return Problem("database_unavailable", "The database does not answer.", status=503, hint=hint)
        case ValueError():
            return Problem("invalid", str(exc))
        case _:
            return None


HINTS = {
    401: "Send `Authorization: Bearer <token>`; `anneal login` makes one.",
    403: "Ask an admin of the project for a token with this scope.",
    415: "Send `Content-Type: application/json`.",
}


MAX_ERRORS = 20
"""Messages in one response; the rest are only counted."""
MAX_NAME = 200
"""Characters of a field's path, which contains names that the caller chose."""


def invalid(fields: Fields, *, count: int = 0) -> Problem:
    """400 for values that the user can correct; the message names the first. `count`: all errors, if cut."""
    count = max(count, len(fields))
    fields = {name[:MAX_NAME]: messages[:MAX_ERRORS] for name, messages in list(fields.items())[:MAX_ERRORS]}
    first = next(((name, texts[0]) for name, texts in fields.items() if texts), ("", "the request is not valid"))
    more = f" (and {count - 1} more)" if count > 1 else ""
    message = f"{first[0]}: {first[1]}{more}" if first[0] else f"{first[1]}{more}"
    return Problem("invalid", message, hint="Change the fields that are named.", fields=fields)


def fields_of(error: PydanticError, prefix: str = "") -> Fields:
    """The first messages by dotted path, as in `params.lora_r`; "" stands for the whole object."""
    fields: Fields = {}
    for detail in error.errors(include_url=False, include_context=False)[:MAX_ERRORS]:
        path = ".".join([*([prefix] if prefix else []), *(str(part) for part in detail["loc"])])
        fields.setdefault(path, []).append(_message(detail))
    return fields


def _message(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return "is needed"
    if detail["type"] == "extra_forbidden":
        return "is not known here; remove it"
    if detail["type"] == "unknown_parameter":
        return message
    if detail["type"] == "value_error" or not (received := _short(detail["input"])):
        return message
    return f"{message[:1].lower()}{message[1:]}, got {received}"


def _short(value: Any) -> str:
    """Its repr; "" for long values, whose repr is never built."""
    if isinstance(value, (str, list, dict)) and len(value) > 100:
        return ""
    written = repr(value)
    return written if len(written) <= 100 else ""


def _flatten(detail: Any, prefix: str = "") -> Fields:
    if isinstance(detail, Mapping):
        parts = [_flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in detail.items()]
        return {key: messages for part in parts for key, messages in part.items()}
    if isinstance(detail, Sequence) and not isinstance(detail, str):
        if any(isinstance(item, Mapping) for item in detail):
            return _flatten({str(i): item for i, item in enumerate(detail) if item}, prefix)
        return {prefix.removesuffix("non_field_errors"): [str(item) for item in detail]}
    return {prefix: [str(detail)]}


def _code(exc: exceptions.APIException) -> str:
    codes = exc.get_codes()
    return codes if isinstance(codes, str) else exc.default_code


def _not_found(exc: BaseException) -> str:
    message = str(exc)
    return message if message and "matches the given query" not in message else "There is no such thing here."


def respond(problem: Problem) -> JsonResponse:
    """For plain Django views."""
    return JsonResponse(problem.body(), status=problem.status)


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001 Django's signature
    return respond(Problem("bad_request", "The request cannot be read."))


def permission_denied(request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001
    return respond(Problem("forbidden", "You may not do this.", status=403, hint=HINTS[403]))


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001
    return respond(Problem("not_found", f"There is nothing at {request.path}.", status=404))


def server_error(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    message = "The API failed; the cause is in its log."
    return respond(Problem("internal", message, status=500, hint="Try again; report it with the log if it stays."))
