import django.db.models.deletion
from django.db import migrations, models


def fill(apps, schema_editor):  # noqa: ARG001 Django's signature
    """What was written of jobs belongs to the job's project."""
    jobs, audit = apps.get_model("jobs", "Job"), apps.get_model("jobs", "Audit")
    for pk, project_id in jobs.objects.values_list("pk", "project_id").iterator():
        audit.objects.filter(object=f"job:{pk}").update(project_id=project_id)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("jobs", "0002_lines"),
    ]

    operations = [
        migrations.AddField(
            model_name="audit",
            name="project",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="accounts.project"
            ),
        ),
        migrations.AddIndex(
            model_name="audit",
            index=models.Index(fields=["project", "-id"], name="audit_of_project"),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
