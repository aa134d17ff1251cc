"""What no app registered itself: every record of ours can be looked at, also one that was added yesterday."""

from django.apps import apps
from django.contrib import admin

from api.panel import accounts, catalog, jobs  # noqa: F401 each registers its models
from api.panel.readonly import Plain

OURS = ("audit", "accounts", "catalog", "jobs")
INNER = ("reaperpass", "ratecount")
"""Bookkeeping of the program itself: no records that anybody looks for."""

admin.site.index_title = "Dashboard"
admin.site.index_template = "panel/dashboard.html"

for model in (model for label in OURS for model in apps.get_app_config(label).get_models()):
    if not admin.site.is_registered(model) and model._meta.model_name not in INNER:
        admin.site.register(model, Plain)
