"""Files whose rows are gone. A delete notes their prefix in its transaction; a sweep after the commit removes them."""

import logging

from django.db import transaction

from api.catalog.models import Removal
from api.storage import storage

log = logging.getLogger(__name__)


def removal_add(*, prefix: str) -> None:
    """Everything below `prefix`, which ends with "/", is deleted some time after the commit."""
    assert prefix.endswith("/") and prefix.count("/") > 1, f"{prefix!r} would remove too much"
    assert transaction.get_connection().in_atomic_block, "removal_add is for the transaction that deletes the rows"
    Removal.objects.get_or_create(prefix=prefix)


def removals_sweep(*, limit: int = 20) -> int:
    """How many prefixes went. The row goes last: a crash in between costs a second look."""
    gone = 0
    for removal in Removal.objects.order_by("pk")[:limit]:
        try:
            storage().delete_prefix(removal.prefix)
        except OSError as error:
            log.warning("files below %s stay for now: %s", removal.prefix, error)
            continue
        removal.delete()
        gone += 1
    return gone
