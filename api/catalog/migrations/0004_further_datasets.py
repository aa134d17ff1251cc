"""Templates may name several datasets; what they said before named one."""

from typing import Any

from django.db import migrations, models

NEW = {"further_datasets": [], "class_dataset": None}


def contents_complete(apps: Any, _: Any) -> None:
    """A version without the new words would leave them as they are where it is restored."""
    for version in apps.get_model("catalog", "TemplateVersion").objects.iterator():
        version.content = {**NEW, **version.content}
        version.save(update_fields=["content"])


class Migration(migrations.Migration):
    dependencies = [("catalog", "0003_version_states")]

    operations = [
        migrations.AddField("template", "further_datasets", models.JSONField(default=list)),
        migrations.AddField("template", "class_dataset", models.CharField(max_length=120, null=True)),
        migrations.RunPython(contents_complete, migrations.RunPython.noop),
    ]
