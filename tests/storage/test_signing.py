"""Signed links as pure text: when they end, and that every field is signed."""

from dataclasses import FrozenInstanceError, replace
from urllib.parse import urlsplit

import pytest

from storage.signing import Grant, LinkExpiredError, link_make, link_read

GRANT = Grant("PUT", "a/b.bin", expires=1000, size=5, sha256="0" * 64, part="upload/1")


def query_of(grant: Grant, secret: str = "s") -> str:
    return urlsplit(link_make(grant, base="http://host/storage", secret=secret)).query


def test_link_read_returns_the_signed_grant() -> None:
    assert link_read("a/b.bin", query_of(GRANT), secret="s", now=0.0) == GRANT


def test_an_empty_text_is_part_of_the_grant_like_any_other() -> None:
    grant = replace(GRANT, filename="")
    assert link_read("a/b.bin", query_of(grant), secret="s", now=0.0) == grant


def test_a_grant_is_immutable() -> None:
    grant = link_read("a/b.bin", query_of(GRANT), secret="s", now=0.0)
    with pytest.raises(FrozenInstanceError):
        grant.size = 6  # type: ignore[misc]


@pytest.mark.parametrize(("now", "expired"), [(999.9, False), (1000.0, True), (1000.1, True)])
def test_a_link_expires_at_its_second(now: float, expired: bool) -> None:
    if not expired:
        assert link_read("a/b.bin", query_of(GRANT), secret="s", now=now) == GRANT
        return
    with pytest.raises(LinkExpiredError):
        link_read("a/b.bin", query_of(GRANT), secret="s", now=now)
