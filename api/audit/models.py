"""The audit log: its table and its only write."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models


class Audit(models.Model):
    """An entry of the audit log, written in the transaction of the change."""

    at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    kind = models.CharField(max_length=50)
    object = models.CharField(max_length=100)
    project = models.ForeignKey("accounts.Project", on_delete=models.SET_NULL, null=True, related_name="+")
    """Its admins may read the entry; null for entries of the installation."""
    data = models.JSONField(default=dict)

    class Meta:
        db_table = "jobs_audit"
        indexes = (
            models.Index(fields=["object", "id"], name="audit_object"),
            models.Index(fields=["project", "-id"], name="audit_of_project"),
        )

    def __str__(self) -> str:
        return f"{self.at} {self.actor} {self.kind} {self.object}"


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
