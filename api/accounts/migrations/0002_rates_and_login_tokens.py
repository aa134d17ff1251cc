from django.db import migrations, models


def mark(apps, schema_editor):  # noqa: ARG001 Django's signature
    """Until now a login's token was known by its name alone."""
    apps.get_model("accounts", "Token").objects.filter(kind="user", name="login").update(login=True)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="RateCount",
            fields=[
                ("key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("minute", models.BigIntegerField(db_index=True)),
                ("count", models.PositiveIntegerField()),
            ],
        ),
        migrations.AddField(
            model_name="token",
            name="login",
            field=models.BooleanField(default=False),
        ),
        migrations.RunPython(mark, migrations.RunPython.noop),
    ]
