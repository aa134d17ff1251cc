"""Shell completion of names, from the API; offers nothing if the API does not answer quickly."""

from collections.abc import Callable

import httpx

from cli.config import login_load
from cli.errors import CliError
from cli.http import Client, Record, without_none

TIMEOUT = httpx.Timeout(1.0, connect=0.5)
MOST = 50
"""Maximum number of suggestions."""
ID_CHARACTERS = 8
Offer = list[tuple[str, str]]
"""Words, and what some shells show beside each."""


def names_of(collection: str, *, key: str = "name", beside: str = "") -> Callable[[str], Offer]:
    """Offers field `key` of what `GET <collection>` lists."""

    def offer(incomplete: str) -> Offer:
        rows = rows_get(collection, search=incomplete or None)
        words = {row[key]: str(row.get(beside) or "") for row in rows if row[key].startswith(incomplete)}
        return list(words.items())  # of versions of one name, one

    return offer


def ids_of(collection: str, *, beside: str) -> Callable[[str], Offer]:
    """Offers the first characters of the ids that `GET <collection>` lists, the newest first."""

    def offer(incomplete: str) -> Offer:
        size = max(ID_CHARACTERS, len(incomplete))
        rows = [row for row in rows_get(collection) if row["id"].startswith(incomplete)]
        return [(row["id"][:size], str(row.get(beside) or "")) for row in rows]

    return offer


def rows_get(collection: str, search: str | None = None) -> list[Record]:
    """The first page of a list; nothing where there is no login or no answer, since TAB must never fail or hang."""
    try:
        with Client(login_load()) as client:
            client.http.timeout = TIMEOUT
            answer = client.get(collection, **without_none({"search": search, "limit": MOST}))
    except CliError:
        return []
    rows: list[Record] = answer["results"] if isinstance(answer, dict) else answer
    return rows


TEMPLATES = names_of("templates", beside="method")
DATASETS = names_of("datasets")
MODELS = names_of("models", beside="family")
ADAPTORS = names_of("adaptors", beside="trigger_word")
METHODS = names_of("methods", key="method", beside="summary")
JOBS = ids_of("jobs", beside="name")
WORKERS = ids_of("workers", beside="host")
PROJECTS = names_of("projects", beside="role")
SECRETS = names_of("secrets", beside="kind")
TOKENS = ids_of("tokens", beside="name")
