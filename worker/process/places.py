"""Where the files of one attempt lie that its trainer sees."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from worker.transfer.files import remove_tree


@dataclass(frozen=True)
class Places:
    spec: Path
    inputs: Path
    out: Path
    tmp: Path

    def remove(self) -> None:
        for folder in (self.inputs, self.out, self.tmp):
            remove_tree(folder)
        self.spec.unlink(missing_ok=True)


@dataclass(frozen=True)
class Room:
    """What a resident may reach: the places of the attempts that may follow one another in it, and of no others."""

    folder: Path

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    def places(self, attempt: str) -> Places:
        return Places(
            self.inputs / f"{attempt}.json", self.inputs / attempt, self.out / attempt, self.tmp / f"own-{attempt}"
        )


def places_in(folder: Path) -> Places:
    """Of an attempt with a trainer of its own."""
    return Places(folder / "spec.json", folder / "in", folder / "out", folder / "tmp")


def room_in(residents: Path, reuse_key: str, accelerators: tuple[int, ...]) -> Room:
    """The room of all attempts with this key; `residents` is emptied when a host starts."""
    name = hashlib.sha256(json.dumps([reuse_key, accelerators]).encode()).hexdigest()[:16]
    return Room(residents / "rooms" / name)
