"""Writes of the audit log."""

from datetime import datetime
from typing import Any
from uuid import UUID

from api.audit.models import Audit


def audit_add(
    *,
    actor: str,
    kind: str,
    object: str,
    at: datetime,
    project_id: UUID | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Call in the transaction of the change. Without a project only superusers can read the entry."""
    Audit.objects.create(actor=actor, kind=kind, object=object, at=at, project_id=project_id, data=data or {})
