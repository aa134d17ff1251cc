"""Whether what is installed is still the same: packages, and our own code."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

OURS = ("foundation", "formats", "trainers", "worker")


def installed_digest() -> str:
    """Changes with each installation, update or removal of a package, and with each change of a file of ours."""
    digest = hashlib.sha256()
    for line in (*_packages(), *_own_files()):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _packages() -> Iterator[str]:
    """Each installed package has a folder with its version in its name, written anew when it is installed again."""
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages") and folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix in (".dist-info", ".egg-info", ".pth"):
                    yield f"{path} {path.stat().st_mtime_ns}"


def _own_files() -> Iterator[str]:
    for name in OURS:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(place).rglob("*.py")):
                status = path.stat()
                yield f"{path} {status.st_size} {status.st_mtime_ns}"
