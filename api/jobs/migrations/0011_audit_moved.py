from django.db import migrations


class Migration(migrations.Migration):
    """`api.audit` has the model now; the table stays."""

    dependencies = [
        ("audit", "0001_initial"),
        ("jobs", "0010_attempt_phase"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="Audit")]),
    ]
