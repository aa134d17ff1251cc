"""`python -m api.catalog.checking IN OUT`, the order as JSON on standard input. OUT/report.json is written last."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from api.catalog.checking.limits import die_with_parent, limits_set, peak_bytes
from api.catalog.checking.report import Refused, plain
from api.catalog.checking.work import Work

CHECKS = {"datasets": "api.catalog.checking.dataset", "models": "api.catalog.checking.model"}
"""Each is loaded only when it is asked for: the decoders of images take time and memory to load."""


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    order = json.load(sys.stdin)
    die_with_parent()
    limits_set(**order["limits"])
    report = _report(order, source, target)
    temporary = target / "report.json.tmp"
    temporary.write_text(json.dumps({**plain(report), "peak_bytes": peak_bytes()}))
    temporary.replace(target / "report.json")


def _report(order: dict[str, Any], source: Path, target: Path) -> dict[str, Any]:
    work = Work(source, target, order["files"])
    work.strip_metadata = bool(order.get("strip_metadata"))
    try:
        if order["unpack"]:
            work.unpack()
        details = importlib.import_module(CHECKS[order["kind"]]).check(work)
    except Refused as error:
        return {"refused": error.body()}
    except MemoryError:
        said = f"{work.reading}: looking at it needs more than {order['limits']['memory_bytes']} bytes of memory"
        return {"refused": Refused(said, code="check_limit", hint="Split the file, then upload again.").body()}
    return {"files": work.made, "details": {**details, **work.notices.details()}}


main()
