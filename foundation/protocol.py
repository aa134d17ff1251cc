"""The version of the HTTP between worker and API. docs/protocol.md says what changed with each."""

PROTOCOL = 2
"""Raised with every change that an older worker or API must know of."""
OLDEST_WORKER = 1
"""The API serves workers from this version on; 1 are those that name none."""
OLDEST_API = 2
"""The worker works for APIs from this version on."""
PROTOCOL_HEADER = "Anneal-Protocol"
"""On every answer of the API: what lacks it was answered by something between worker and API."""
