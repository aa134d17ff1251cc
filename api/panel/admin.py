"""Registers all models, so that every record of ours can be viewed: those without an admin of their own as Plain."""

from django.apps import apps
from django.contrib import admin

from api.panel import accounts, catalog, jobs  # noqa: F401 each registers its models
from api.panel.readonly import Plain

OURS = ("audit", "accounts", "catalog", "jobs")
INTERNAL = ("reaperpass", "ratecount")
"""Bookkeeping of the program itself, which nobody needs to view."""

admin.site.index_title = "Dashboard"
admin.site.index_template = "panel/dashboard.html"

for model in (model for label in OURS for model in apps.get_app_config(label).get_models()):
    if not admin.site.is_registered(model) and model._meta.model_name not in INTERNAL:
        admin.site.register(model, Plain)
