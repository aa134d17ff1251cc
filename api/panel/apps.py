from django.apps import AppConfig


class PanelConfig(AppConfig):
    """Last of the installed apps: its `admin` registers what the others left."""

    name = "api.panel"
