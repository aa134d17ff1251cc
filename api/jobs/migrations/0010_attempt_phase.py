from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0009_manifests"),
    ]

    operations = [
        migrations.AddField(
            model_name="attempt",
            name="phase",
            field=models.CharField(blank=True, default="", max_length=20),
        ),
    ]
