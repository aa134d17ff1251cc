"""Django's settings for mypy's plugin, which needs the apps and no server: places that nothing opens."""

import os

os.environ.setdefault("ANNEAL_DATABASE_URL", "sqlite:////nonexistent/anneal.sqlite3")
os.environ.setdefault("ANNEAL_STORAGE_URL", "file:///nonexistent/files")
os.environ.setdefault("ANNEAL_SECRET_KEY", "for the type checker only, 32 characters")
os.environ.setdefault("ANNEAL_PUBLIC_URL", "http://127.0.0.1:8000")

from api.settings import *  # noqa: F403  the environment has to be there first
