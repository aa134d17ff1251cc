"""Settings are checked at start, each mistake in one sentence."""

import os
import re
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from api.databases import database_entry
from api.environment import environment_read
from tests.patience import PATIENCE_SECONDS

GOOD = {
    "ANNEAL_DATABASE_URL": "sqlite:////tmp/x.sqlite3",
    "ANNEAL_STORAGE_URL": "file:///tmp/storage",
    "ANNEAL_SECRET_KEY": "k" * 40,
    "ANNEAL_PUBLIC_URL": "http://127.0.0.1:8000/",
}


def test_numbers_have_defaults_and_the_public_url_loses_its_slash() -> None:
    result = environment_read(GOOD)
    assert (result.lease_seconds, result.self_fence_seconds, result.public_url) == (300, 240, "http://127.0.0.1:8000")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_place_is_named(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{name}: field required; it is not set"):
        environment_read({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ANNEAL_DATABASE_URL", "mysql://x", "expected sqlite://... or postgresql://..."),
        ("ANNEAL_BROKER_URL", "amqp://x", "expected redis://..."),
        ("ANNEAL_PUBLIC_URL", "example.org", "expected http://..."),
        ("ANNEAL_STORAGE_URL", "/tmp", "expected an address such as"),
        ("ANNEAL_LEASE_SECONDS", "soon", "got 'soon'"),
        ("ANNEAL_LEASE_SECONDS", "280", "ANNEAL_LEASE_SECONDS=280 must be more than"),
        ("ANNEAL_KILL_SECONDS", "45", "= 305, or two trainers could run one job"),
        ("ANNEAL_HEARTBEAT_SECONDS", "235", "one slow answer stops a trainer"),
        ("ANNEAL_UPLOAD_HOURS", "6", "an upload could be removed while its links are still good"),
        ("ANNEAL_S3_ACCESS_KEY", "key", "belong together; set both or none"),
        ("ANNEAL_PART_BYTES", "1048576", "greater than or equal to 5242880"),
        ("ANNEAL_S3_ADDRESSING", "host", "'path' or 'virtual'"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(name: str, value: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(message)):
        environment_read({**GOOD, name: value})


def test_secrets_are_not_repeated_in_errors() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        environment_read({**GOOD, "ANNEAL_SECRET_KEY": "short-secret", "ANNEAL_DATABASE_URL": "my://user:pw@host/x"})
    assert "short-secret" not in str(caught.value)
    assert "pw@host" not in str(caught.value)


LIMITS = environment_read(GOOD).database_limits


def test_a_database_address_becomes_djangos_entry() -> None:
    sqlite = database_entry("sqlite:////var/lib/a.sqlite3", LIMITS)
    assert (sqlite["NAME"], sqlite["OPTIONS"]["transaction_mode"]) == ("/var/lib/a.sqlite3", "IMMEDIATE")
    result = database_entry("postgresql://me:p%40ss@db:5433/anneal?sslmode=require", LIMITS)
    assert (result["NAME"], result["USER"], result["PASSWORD"], result["HOST"]) == ("anneal", "me", "p@ss", "db")
    assert (result["PORT"], result["OPTIONS"]["sslmode"]) == ("5433", "require")
    assert result["OPTIONS"]["pool"] and result["CONN_HEALTH_CHECKS"], "a connection is kept, and looked at before use"
    assert database_entry("postgresql://postgres:@/postgres?host=/run/pg", LIMITS)["HOST"] == "/run/pg"


@pytest.mark.database("postgresql")  # SQLite's locks end with the process that holds them
@pytest.mark.django_db
def test_a_session_that_idles_in_a_transaction_ends_and_the_owners_options_win() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("1min",)
    supplied = database_entry("postgresql://me@db/anneal?options=-c%20idle_in_transaction_session_timeout%3D5s", LIMITS)
    assert supplied["OPTIONS"]["options"].endswith(" -c idle_in_transaction_session_timeout=5s"), "the last one counts"


def test_a_command_with_wrong_settings_says_so_without_a_traceback() -> None:
    variables = {**os.environ, **GOOD, "ANNEAL_LEASE_SECONDS": "10"}
    command = [sys.executable, "-m", "api", "check"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 1
    assert "ANNEAL_LEASE_SECONDS=10 must be more than" in ended.stderr
    assert "Traceback" not in ended.stderr
