"""Who did what."""

from django.db import models


class Audit(models.Model):
    """Who changed what, written in the transaction of the change."""

    at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    kind = models.CharField(max_length=50)
    object = models.CharField(max_length=100)
    project = models.ForeignKey("accounts.Project", on_delete=models.SET_NULL, null=True, related_name="+")
    """Whose admins may read it; null for what belongs to the whole installation."""
    data = models.JSONField(default=dict)

    class Meta:
        db_table = "jobs_audit"
        indexes = (
            models.Index(fields=["object", "id"], name="audit_object"),
            models.Index(fields=["project", "-id"], name="audit_of_project"),
        )

    def __str__(self) -> str:
        return f"{self.at} {self.actor} {self.kind} {self.object}"
