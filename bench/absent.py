"""Stand-ins for libraries that read dataset files, which the accelerator benches import but never call."""

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import ClassVar

UNUSED = {"pyarrow": ("pyarrow.parquet",), "pillow_heif": ()}
"""Libraries with their imported submodules."""


class Nothing(Exception):  # noqa: N818 - no error: a name to catch
    """May be called when a module is imported, and named in an `except` clause."""

    def __init__(self, *_arguments: object, **_keywords: object) -> None:
        super().__init__()


class StandIn(ModuleType):
    """A module in which every name is `Nothing`."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type[Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


def stand_ins_install() -> list[str]:
    """Returns the libraries that are not installed and now have a stand-in."""
    absent = [name for name in UNUSED if name not in sys.modules and find_spec(name) is None]
    for name in absent:
        for module in (name, *UNUSED[name]):
            sys.modules[module] = StandIn(module)
    return absent
