"""Django settings. The environment variables are in `api.environment`."""

import os
from pathlib import Path

from api.databases import database_entry
from api.environment import environment_read
from api.logs import logging_config

ANNEAL = environment_read(os.environ)

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = ANNEAL.secret_key
DEBUG = ANNEAL.debug
ALLOWED_HOSTS = ANNEAL.hosts
CSRF_TRUSTED_ORIGINS = [ANNEAL.public_url]
ROOT_URLCONF = "api.urls"
ASGI_APPLICATION = "api.asgi.application"
DATABASES = {"default": {**database_entry(ANNEAL.database_url, ANNEAL.database_limits), "ATOMIC_REQUESTS": False}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["api.panel.formats"]
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static"
APPEND_SLASH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 2**20

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "api.audit",
    "api.accounts",
    "api.catalog",
    "api.jobs",
    "api.panel",  # last: registers models of the other apps
]
MIDDLEWARE = [
    "api.server.request_logging.observed",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ANNEAL.is_https
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_HSTS_SECONDS = 31536000 if ANNEAL.is_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = ANNEAL.is_https
SILENCED_SYSTEM_CHECKS = [
    "security.W008",  # the TLS proxy redirects; probes and workers inside may use http
    "security.W021",  # whether a domain is on the preload list of browsers is its owner's choice
]


REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "api.errors.exception_handler",
    "DEFAULT_AUTHENTICATION_CLASSES": ["api.accounts.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["api.accounts.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["api.parsing.StrictJSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["api.accounts.limits.WriteRate"],
    "DEFAULT_PAGINATION_CLASS": "api.paging.Cursor",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Anneal",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "POSTPROCESSING_HOOKS": ["api.openapi.error_responses_add"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

LOGGING = logging_config(secrets=ANNEAL.secret_values)
UNFOLD = {
    "SITE_TITLE": "Anneal",
    "SITE_HEADER": "Anneal",
    "SITE_SUBHEADER": "What runs, and why not",
    "SITE_SYMBOL": "thermostat",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": False,
    "DASHBOARD_CALLBACK": "api.panel.dashboard.dashboard",
    "LOGIN": {"form": "api.accounts.limits.LimitedLogin"},
    "SIDEBAR": {"show_search": True, "show_all_applications": False},
}
"""How django-unfold shows the panel."""
