"""The clock of all leases: the database's."""

from datetime import UTC, datetime

from django.db import connection

QUERY = {
    "sqlite": "SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')",
    "postgresql": "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')",
}


def now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(QUERY[connection.vendor])
        return datetime.fromisoformat(cursor.fetchone()[0]).replace(tzinfo=UTC)
