from django.db import migrations

FORMER_KINDS = {"pictures": "images", "rows": "text"}
FORMER_KEYS = {"num_pictures": "num_images"}
BATCH_SIZE = 500


def kinds_rename(apps, _schema_editor):
    """Names the kind of a dataset by what it holds: `images` or `text`. Specs of jobs stay as they were digested."""
    DatasetVersion = apps.get_model("catalog", "DatasetVersion")
    batch = []
    for version in DatasetVersion.objects.only("pk", "details").iterator(chunk_size=BATCH_SIZE):
        renamed = {FORMER_KEYS.get(key, key): value for key, value in version.details.items()}
        if "kind" in renamed:
            renamed["kind"] = FORMER_KINDS.get(renamed["kind"], renamed["kind"])
        if renamed != version.details:
            version.details = renamed
            batch.append(version)
        if len(batch) == BATCH_SIZE:
            DatasetVersion.objects.bulk_update(batch, ["details"])
            batch = []
    DatasetVersion.objects.bulk_update(batch, ["details"])


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0005_upload_sizes"),
    ]

    operations = [
        migrations.RunPython(kinds_rename, migrations.RunPython.noop),
    ]
