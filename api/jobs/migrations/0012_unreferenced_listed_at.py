from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0011_audit_moved"),
    ]

    operations = [
        migrations.RenameField(model_name="unreferenced", old_name="seen", new_name="listed_at"),
    ]
