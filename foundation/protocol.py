"""The version of the HTTP protocol between worker and API. docs/protocol.md has the changes."""

PROTOCOL = 2
"""Incremented with every incompatible change."""
OLDEST_WORKER = 1
"""The oldest version that the API serves; 1 are workers that send none."""
OLDEST_API = 2
"""The oldest version that the worker accepts."""
PROTOCOL_HEADER = "Anneal-Protocol"
"""On every response of the API; a response without it came from something between worker and API."""
