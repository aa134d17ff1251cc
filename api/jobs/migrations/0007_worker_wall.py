from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0006_retry_budgets"),
    ]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="wall",
            field=models.CharField(blank=True, default="", max_length=20),
        ),
    ]
