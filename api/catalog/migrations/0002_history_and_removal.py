"""Templates keep their versions, adaptor names their count, and what is deleted leaves its prefix to a sweep."""

import django.db.models.deletion
from django.db import migrations, models

WORDS = ("method", "params", "dataset", "model", "adaptors", "resources", "pool", "priority")


def history_fill(apps, schema_editor):  # noqa: ARG001 Django's signature
    """What stands in a template is its first version; adaptors are counted as they are."""
    versions = apps.get_model("catalog", "TemplateVersion").objects
    for template in apps.get_model("catalog", "Template").objects.iterator():
        content = {word: getattr(template, word) for word in WORDS}
        versions.create(template=template, version=1, content=content, actor="migration")
    counters = apps.get_model("catalog", "AdaptorName").objects
    for adaptor in apps.get_model("catalog", "Adaptor").objects.only("project", "name", "version").order_by("version"):
        counters.update_or_create(
            project_id=adaptor.project_id, name=adaptor.name, defaults={"last_version": adaptor.version}
        )


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("catalog", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Removal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("prefix", models.CharField(max_length=200, unique=True)),
                ("created", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.AddField(
            model_name="adaptor",
            name="notes",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddField(
            model_name="template",
            name="version",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.CreateModel(
            name="AdaptorName",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("last_version", models.PositiveIntegerField(default=0)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="adaptor_names", to="accounts.project"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("project", "name"), name="one_counter_per_adaptor")],
            },
        ),
        migrations.CreateModel(
            name="AdaptorTag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=50)),
                (
                    "adaptor",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="tags", to="catalog.adaptor"
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["name"], name="adaptor_tag")],
                "constraints": [models.UniqueConstraint(fields=("adaptor", "name"), name="one_tag_per_adaptor")],
            },
        ),
        migrations.CreateModel(
            name="TemplateVersion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version", models.PositiveIntegerField()),
                ("content", models.JSONField()),
                ("actor", models.CharField(max_length=200)),
                ("created", models.DateTimeField(auto_now_add=True)),
                (
                    "template",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="versions", to="catalog.template"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("template", "version"), name="one_template_version")],
            },
        ),
        migrations.RunPython(history_fill, migrations.RunPython.noop),
    ]
