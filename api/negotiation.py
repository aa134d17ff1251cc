"""For views with one media type, whatever the request accepts; errors are JSON nevertheless."""

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request


class FixedNegotiation(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Any) -> Any:  # noqa: ARG002 DRF's hook
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:  # noqa: ARG002
        return renderers[0], renderers[0].media_type
