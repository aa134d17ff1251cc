"""The audit log."""

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
