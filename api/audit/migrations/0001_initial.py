import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Takes the model over from `jobs`; the table and its rows stay as they are."""

    dependencies = [
        ("accounts", "0001_initial"),
        ("jobs", "0003_audit_project"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="Audit",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("actor", models.CharField(max_length=200)),
                        ("kind", models.CharField(max_length=50)),
                        ("object", models.CharField(max_length=100)),
                        ("data", models.JSONField(default=dict)),
                        (
                            "project",
                            models.ForeignKey(
                                null=True,
                                on_delete=django.db.models.deletion.SET_NULL,
                                related_name="+",
                                to="accounts.project",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "jobs_audit",
                        "indexes": [
                            models.Index(fields=["object", "id"], name="audit_object"),
                            models.Index(fields=["project", "-id"], name="audit_of_project"),
                        ],
                    },
                ),
            ],
        ),
    ]
