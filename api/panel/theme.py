"""How django-unfold shows the panel."""

from typing import Any

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Anneal",
    "SITE_HEADER": "Anneal",
    "SITE_SUBHEADER": "What runs, and why not",
    "SITE_SYMBOL": "thermostat",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": False,
    "DASHBOARD_CALLBACK": "api.panel.dashboard.dashboard",
    "LOGIN": {"form": "api.accounts.panel_login.LimitedLogin"},
    "SIDEBAR": {"show_search": True, "show_all_applications": False},
}
