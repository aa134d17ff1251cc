import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_rates_and_login_tokens"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProjectSecret",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=50)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("hub", "token of a Hugging Face Hub: HF_TOKEN"),
                            ("wandb", "key of Weights & Biases: WANDB_API_KEY"),
                            ("generic", "anything else: ANNEAL_SECRET_<NAME>"),
                        ],
                        max_length=10,
                    ),
                ),
                ("ciphertext", models.TextField()),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("rotated", models.DateTimeField(null=True)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="secrets", to="accounts.project"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("project", "name"), name="one_secret_per_name")],
            },
        ),
    ]
