"""Loads the Parquet reader only where a Parquet file came: it is the largest thing that a check needs."""

import importlib
from types import ModuleType


def parquet() -> ModuleType:
    return importlib.import_module("api.catalog.checking.parquet")
