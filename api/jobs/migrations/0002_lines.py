"""Jobs stand in lines by what they need, so that a claim looks at one job per line."""

import json

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def needs_fill(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:  # noqa: ARG001 Django's signature
    for job in apps.get_model("jobs", "Job").objects.only("spec").iterator():
        wanted = job.spec["resources"]["accelerators"]
        job.needs = json.dumps(wanted if isinstance(wanted, int) else sorted(wanted))
        job.save(update_fields=["needs"])


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("jobs", "0001_initial"),
    ]

    operations = [
        migrations.RemoveIndex(model_name="job", name="job_claim"),
        migrations.AddField(model_name="job", name="needs", field=models.CharField(default="0", max_length=400)),
        migrations.RunPython(needs_fill, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="attempt",
            index=models.Index(condition=models.Q(("ended_at__isnull", True)), fields=["worker"], name="attempt_live"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("pool"),
                models.F("needs"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("created"),
                models.F("id"),
                condition=models.Q(("state", "queued")),
                name="job_claim",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("pool"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("created"),
                models.F("id"),
                condition=models.Q(("state", "queued")),
                name="job_line",
            ),
        ),
    ]
