"""Jobs know their inputs by row, the template and the job that they came from; long logs lie in pieces."""

import django.db.models.deletion
from django.db import migrations, models


def inputs_fill(apps, schema_editor):  # noqa: ARG001 Django's signature
    rows = apps.get_model("jobs", "JobInput")
    for job in apps.get_model("jobs", "Job").objects.only("spec").iterator():
        inputs = job.spec["inputs"]
        named = [("dataset", inputs.get("dataset")), ("model", inputs.get("model"))]
        named += [("adaptor", adaptor) for adaptor in inputs.get("adaptors", [])]
        rows.objects.bulk_create(
            rows(job=job, role=role, name=ref["name"], key=ref["key"]) for role, ref in named if ref
        )


def pieces_fill(apps, schema_editor):  # noqa: ARG001
    """A log that was stored whole is one piece."""
    pieces = apps.get_model("jobs", "LogPiece").objects
    for attempt in apps.get_model("jobs", "Attempt").objects.filter(log_stored__gt=0).iterator():
        key = f"jobs/{attempt.job_id}/{attempt.fence}/log.txt"
        pieces.create(attempt=attempt, start=0, size_bytes=attempt.log_stored, key=key)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("catalog", "0002_history_and_removal"),
        ("jobs", "0003_audit_project"),
    ]

    operations = [
        migrations.CreateModel(
            name="JobInput",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "role",
                    models.CharField(
                        choices=[("dataset", "Dataset"), ("model", "Model"), ("adaptor", "Adaptor")], max_length=10
                    ),
                ),
                ("name", models.CharField(max_length=120)),
                ("key", models.CharField(max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name="JobLabel",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=50)),
            ],
        ),
        migrations.CreateModel(
            name="LogPiece",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("start", models.PositiveBigIntegerField()),
                ("size_bytes", models.PositiveBigIntegerField()),
                ("key", models.CharField(max_length=200)),
            ],
        ),
        migrations.AddField(
            model_name="job",
            name="notes",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddField(
            model_name="job",
            name="parent",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="reruns", to="jobs.job"
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="template",
            field=models.CharField(blank=True, default="", max_length=120),
        ),
        migrations.AddField(
            model_name="job",
            name="template_version",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="jobs",
                to="catalog.templateversion",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["project", "method", "-created"], name="job_method_list"),
        ),
        migrations.AddField(
            model_name="jobinput",
            name="job",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="inputs", to="jobs.job"),
        ),
        migrations.AddField(
            model_name="joblabel",
            name="job",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="labels", to="jobs.job"),
        ),
        migrations.AddField(
            model_name="logpiece",
            name="attempt",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="log_pieces", to="jobs.attempt"
            ),
        ),
        migrations.AddIndex(
            model_name="jobinput",
            index=models.Index(fields=["key"], name="job_input_key"),
        ),
        migrations.AddIndex(
            model_name="jobinput",
            index=models.Index(fields=["role", "name"], name="job_input_name"),
        ),
        migrations.AddIndex(
            model_name="joblabel",
            index=models.Index(fields=["name"], name="job_label"),
        ),
        migrations.AddConstraint(
            model_name="joblabel",
            constraint=models.UniqueConstraint(fields=("job", "name"), name="one_label_per_job"),
        ),
        migrations.AddConstraint(
            model_name="logpiece",
            constraint=models.UniqueConstraint(fields=("attempt", "start"), name="one_piece_per_start"),
        ),
        migrations.AddIndex(
            model_name="attempt",
            index=models.Index(
                condition=models.Q(("log_stored__lt", models.F("log_bytes"))), fields=["id"], name="attempt_log_hot"
            ),
        ),
        migrations.RunPython(inputs_fill, migrations.RunPython.noop),
        migrations.RunPython(pieces_fill, migrations.RunPython.noop),
    ]
