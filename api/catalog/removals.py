"""Files whose rows were deleted: the transaction records their prefix, and a sweep after the commit removes them."""

import logging

from django.db import transaction

from api.catalog.models import Removal
from api.storage import storage

log = logging.getLogger(__name__)


def removal_add(*, prefix: str) -> None:
    """Schedules the removal of everything below `prefix`, which ends with "/", after the commit."""
    assert prefix.endswith("/") and prefix.count("/") > 1, f"{prefix!r} would remove too much"
    assert transaction.get_connection().in_atomic_block, "removal_add is for the transaction that deletes the rows"
    Removal.objects.get_or_create(prefix=prefix)


def removals_sweep(*, limit: int = 20) -> int:
    """Removes files and returns the number of prefixes. Rows are deleted last, so that a crash repeats the removal."""
    removed = 0
    for removal in Removal.objects.order_by("pk")[:limit]:
        try:
            storage().delete_prefix(removal.prefix)
        except OSError as error:
            log.warning("files below %s could not be removed yet: %s", removal.prefix, error)
            continue
        removal.delete()
        removed += 1
    return removed
