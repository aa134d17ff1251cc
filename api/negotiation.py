"""For answers of one type, whatever the request would like; their errors are JSON all the same."""

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request


class OneKind(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Any) -> Any:  # noqa: ARG002 DRF's hook
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:  # noqa: ARG002
        return renderers[0], renderers[0].media_type
