"""`anneal usage`."""

from collections.abc import Iterator

from cli.http import Record
from cli.output import Json, connect, human_bytes, print_json, print_table


def usage(as_json: Json = False) -> None:
    """How much of the storage the project fills, and with what."""
    with connect() as client:
        found = client.get("usage")
    if as_json:
        print_json(found)
    else:
        total = {"what": "all", "count": "", "size": human_bytes(found["total_bytes"])}
        print_table([*usage_rows(found), total], {"": "what", "count": "count", "size": "size"})


def usage_rows(found: Record) -> Iterator[Record]:
    """A line for each kind of thing; artifacts by their own kinds."""
    for what, size in {**found, **found["artifacts"]}.items():
        if isinstance(size, dict) and "size_bytes" in size:
            yield {"what": what, "count": size["count"], "size": human_bytes(size["size_bytes"])}
