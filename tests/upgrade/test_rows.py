"""No row of the dumps of 61dba2f is lost on the way to today's models."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.upgrade.old_platform import Rows, Tables, old_platform

RENAMED_TABLES: dict[str, str] = {}
"""Today's table by the table of 61dba2f, where it was renamed."""
RENAMED_COLUMNS: dict[tuple[str, str], str | None] = {("jobs_unreferenced", "seen"): "listed_at"}
"""Today's column by (table, column) of 61dba2f, where it was renamed; None: it is gone on purpose."""


def kind_renamed(details: Any) -> Any:
    """PostgreSQL's driver gives an object, SQLite's the text."""
    if isinstance(details, str):
        return json.dumps(kind_renamed(json.loads(details)))
    renamed = {"num_images" if key == "num_pictures" else key: value for key, value in details.items()}
    return {**renamed, "kind": {"pictures": "images", "rows": "text"}.get(renamed["kind"], renamed["kind"])}


CHANGED_VALUES: dict[tuple[str, str], Callable[[Any], Any]] = {("catalog_datasetversion", "details"): kind_renamed}
"""What a data migration makes of the values of (table, column) of 61dba2f."""
GROWING_TABLES = {"django_migrations", "django_content_type", "auth_permission"}
"""Tables to which a migration adds rows; in all others as many stay as there were."""


def test_every_row_is_there_after_the_migration_with_its_values(migrated_sqlite: tuple[Tables, Tables]) -> None:
    check(*migrated_sqlite)


@pytest.mark.slow
def test_every_row_is_there_after_the_migration_on_postgresql(tmp_path: Path) -> None:
    with old_platform(tmp_path / "platform", "postgresql") as platform:
        check(*platform.migrate())


def check(before: Tables, after: Tables) -> None:
    assert len(before) >= 35, "every table of 61dba2f is in the dump"
    assert all(before.values()), "and has rows"
    for table, rows in before.items():
        check_table(table, rows, after[RENAMED_TABLES.get(table, table)])


def as_it_is(value: Any) -> Any:
    return value


def in_order(value: Any) -> Any:
    """PostgreSQL sorts the keys of an object by their length, which a rename changes."""
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def check_table(table: str, before: Rows, after: Rows) -> None:
    columns = {column: RENAMED_COLUMNS.get((table, column), column) for column in before[0]}
    remaining = [(old, new) for old, new in columns.items() if new is not None]
    missing = [new for _, new in remaining if new not in after[0]]
    assert not missing, f"{table}: columns {missing} are gone"
    expected = Counter(
        repr([in_order(CHANGED_VALUES.get((table, old), as_it_is)(row[old])) for old, _ in remaining]) for row in before
    )
    actual = Counter(repr([in_order(row[new]) for _, new in remaining]) for row in after)
    assert not expected - actual, f"{table}: rows that are lost or changed"
    assert table in GROWING_TABLES or expected == actual, f"{table}: rows were added"
