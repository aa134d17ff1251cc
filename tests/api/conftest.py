"""Django starts here, before the tests below are imported, on a database and a storage folder of their own."""
# ruff: noqa: E402 the environment comes first

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.database import database_url

FOLDER = tempfile.mkdtemp(prefix="anneal-tests-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
OURS = {
    "DJANGO_SETTINGS_MODULE": "api.settings",
    "ANNEAL_DATABASE_URL": database_url(FOLDER),
    "ANNEAL_STORAGE_URL": f"file://{FOLDER}/storage",
    "ANNEAL_SECRET_KEY": "only-for-tests-" + "x" * 32,
    "ANNEAL_PUBLIC_URL": "http://testserver",
}
os.environ.update(OURS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Each process of xdist makes its own: one that inherits ours reads Django's settings before it comes here."""
    for name in OURS:
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked `database(vendor)` runs where that is the database of the run, and is no part of other runs."""
    vendor = connections["default"].vendor
    others = [item for item in items if (mark := item.get_closest_marker("database")) and mark.args != (vendor,)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


import django
from django.conf import settings as django_settings
from django.db import connections
from pytest_django.fixtures import Settings

django.setup()
django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one costs half a second
if connections["default"].vendor == "sqlite":  # a file: threads share it, as in life
    connections["default"].settings_dict["TEST"]["NAME"] = f"{FOLDER}/test.sqlite3"

from rest_framework.test import APIClient

from api.accounts.models import Project
from api.accounts.tokens import worker_token_create
from tests.api.actors import person
from tests.api.host import Host
from tests.api.world import Clock, Environ, World, world_make


@pytest.fixture(autouse=True)
def idle_threads_closed() -> Iterator[None]:
    """Threads of requests stay; a connection of theirs must not meet a test that may use no database."""
    yield
    asgi = sys.modules.get("api.asgi")
    for thread in asgi.handler.threads.idle if asgi else ():
        thread.submit(connections.close_all).result()


@pytest.fixture
def project(db: None) -> Project:  # noqa: ARG001 fixtures need fixtures
    return Project.objects.create(name="default")


@pytest.fixture
def world(project: Project) -> World:
    """A project with a dataset, a base model and the request of a small job."""
    return world_make(project)


@pytest.fixture
def user(project: Project) -> APIClient:
    """A client with the token of an admin of the project."""
    return person(project.name, "admin")


@pytest.fixture
def stranger(db: None) -> APIClient:  # noqa: ARG001
    """A client with a token of another project."""
    return person("other", "admin")


@pytest.fixture
def host(db: None) -> Host:  # noqa: ARG001
    """A worker host that said hello: one slot, no accelerator."""
    return host_make()


def host_make(**body: Any) -> Host:
    host = Host(worker_token_create(name="test")[0])
    host.hello(**body)
    return host


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The database's clock, to be moved by hand."""
    return Clock(monkeypatch)


@pytest.fixture
def environ(settings: Settings) -> Environ:
    """`environ(lease_seconds=5, ...)` changes settings for one test."""
    return Environ(settings)
