"""What no app registered itself: every record of ours can be looked at, also one that was added yesterday."""

from django.apps import apps
from django.contrib import admin

from api.panel.readonly import Plain

OURS = ("accounts", "catalog", "jobs")

admin.site.index_template = "panel/dashboard.html"

for model in (model for label in OURS for model in apps.get_app_config(label).get_models()):
    if not admin.site.is_registered(model):
        admin.site.register(model, Plain)
