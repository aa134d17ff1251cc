"""Each fault of the soak really happens: a process dies, and the right one."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.soak_faults import KINDS, Faults
from tests.patience import PATIENCE_SECONDS

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]


class Tree:
    """A host's shim and trainer; the words of the trainer's command are the shim's arguments too."""

    folder = Path("host")

    def __init__(self) -> None:
        self.shim, self.trainer = (subprocess.Popen(SLEEP) for _ in range(2))

    def pids(self, word: str) -> list[int]:
        return [self.shim.pid] if word == "worker.process.shim" else [self.shim.pid, self.trainer.pid]


@pytest.fixture
def tree() -> Iterator[Tree]:
    created = Tree()
    yield created
    for process in (created.shim, created.trainer):
        process.kill()
        process.wait()


@pytest.mark.parametrize("victim", ["shim", "trainer"])
def test_the_one_that_is_named_is_killed_and_the_other_spared(tree: Tree, victim: str) -> None:
    host: Any = tree
    faults = Faults(platform=None, hosts=[host], dice=random.Random(0))  # type: ignore[arg-type]  # not asked here
    KINDS[f"kill -9 {victim}"].make(faults, "kill")
    assert getattr(tree, victim).wait(PATIENCE_SECONDS) == -signal.SIGKILL
    other = tree.trainer if victim == "shim" else tree.shim
    assert other.poll() is None
    assert faults.count["kill"] == 1


def test_what_is_broken_is_mended_in_its_time_and_not_broken_twice(tree: Tree) -> None:
    host: Any = tree
    faults = Faults(platform=None, hosts=[host], dice=random.Random(0))  # type: ignore[arg-type]
    mended: list[str] = []
    faults.broke("cut", "host", 1000, lambda: mended.append("host"))
    assert faults.whole_host() is None
    faults.mend(until=0)
    assert not mended
    faults.mend()
    assert mended == ["host"] and faults.whole_host() is host
