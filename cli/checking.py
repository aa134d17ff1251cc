"""A large upload is checked after its answer: waiting until its version is ready or refused."""

import time

from cli.errors import CliError
from cli.http import Client, Record

POLL_SECONDS = 1.0


def version_ready(client: Client, collection: str, version: Record) -> Record:
    """The version once it is checked. Raises CliError with the reason where it is refused."""
    ref = f"{version['name']}@{version['version']}"
    while version.get("state") == "checking":
        time.sleep(POLL_SECONDS)
        version = client.get(f"{collection}/{ref}")
    if version.get("state") == "refused":
        reason = version.get("reason") or {}
        raise CliError(f"{ref} was refused: {reason.get('message')}", str(reason.get("hint") or ""), code="refused")
    return version
