"""The wall between trainers and this host: what each of them may reach, by another uid, by Landlock, or by both.

See docs/worker.md, "What a trainer can reach". Which of them works here is tried once, at the start: wall_check.py.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.sandbox.confine import Confinement, Network
from worker.sandbox.readable import ACCELERATORS, DEVICES
from worker.settings import Settings

Kind = Literal["user+landlock", "user", "landlock", "none"]
FIRST_GROUP, LAST_GROUP = 50_000, 64_999
"""Each project has a group on this host. They fit a container's 65,536 ids."""
COMPILED = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "CUDA_CACHE_PATH": "cuda"}
OF_THE_HOST = ("HF_HUB_CACHE", "HF_DATASETS_CACHE")
MEMORY_FACTOR = 2
_GROUPS = threading.Lock()


@dataclass(frozen=True)
class User:
    uid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Wall:
    """`readable`: see readable_paths. `why`: a sentence where there is no wall."""

    settings: Settings
    user: User | None
    readable: Mapping[str, tuple[str, ...]] | None
    """None = no Landlock."""
    why: str = ""

    @property
    def kind(self) -> Kind:
        if self.user:
            return "user" if self.readable is None else "user+landlock"
        return "none" if self.readable is None else "landlock"

    @property
    def owner(self) -> int:
        """Whose the files are that a trainer leaves."""
        return self.user.uid if self.user else os.geteuid()

    def open_state(self) -> None:
        """Makes the folders of trainers and closes all others; another user passes the state folder by name only."""
        names = ("attempts", "residents", "residents/rooms", "trainer-cache")
        passed = [self.settings.state_dir / name for name in names]
        for folder in passed:
            folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            os.umask(0o027)
            for path in self.settings.state_dir.iterdir():
                path.chmod(0o700 if path.is_dir() else 0o600)
            for folder in (self.settings.state_dir, *passed):
                folder.chmod(0o711)

    def cache_of(self, project: str) -> Path:
        """The folder that trainers of this project alone share; its group is the project's."""
        caches = self.settings.state_dir / "trainer-cache"
        folder = caches / project
        caches.mkdir(exist_ok=True)
        with _GROUPS:
            if not folder.exists() or self.user:
                self._make(folder, self._group_for(caches, project), 0o2770)
        return folder

    def open_folders(
        self, project: str, *, passed: Iterable[Path] = (), read: Iterable[Path] = (), changed: Iterable[Path] = ()
    ) -> None:
        """Makes folders for a trainer of `project`; those `passed` lie on the way to the others."""
        group = self._group(project)
        for folders, mode in ((passed, 0o710), (read, 0o2750), (changed, 0o2770)):
            for folder in folders:
                self._make(folder, group, mode)

    def give(self, path: Path, project: str, mode: int = 0o640) -> None:
        """Lets the trainer use a file of ours."""
        if self.user:
            os.chown(path, -1, self._group(project))
            path.chmod(mode)

    def confinement(
        self,
        *,
        read: Iterable[Path],
        change: Iterable[Path],
        append: Iterable[Path] = (),
        network: Network,
        accelerators: bool,
        project: str,
    ) -> Confinement:
        paths = None if self.readable is None else self._paths(read, change, append, accelerators)
        return Confinement(
            paths=paths,
            network=network,
            uid=self.user.uid if self.user else None,
            gid=self._group(project) if self.user else 0,
            groups=self.user.groups if self.user else (),
            writes_proc=accelerators,
            limits=_limits(self.settings),
        )

    def environment(self, env: Mapping[str, str], *, tmp: Path, cache: Path) -> dict[str, str]:
        """`env` with no folder in it that trainers of several projects would share."""
        if self.kind == "none":
            return dict(env)
        folders = {
            "HOME": tmp,
            "TMPDIR": tmp,
            "XDG_CACHE_HOME": tmp,
            "HF_HOME": tmp / "hf",
            "TORCH_HOME": tmp / "torch",
        }
        compiled = {name: cache / "compiled" / folder for name, folder in COMPILED.items()}
        inherited = {name: value for name, value in env.items() if name not in OF_THE_HOST}
        return inherited | {name: str(path) for name, path in {**folders, **compiled}.items()}

    def _paths(
        self, read: Iterable[Path], change: Iterable[Path], append: Iterable[Path], accelerators: bool
    ) -> dict[str, tuple[str, ...]]:
        assert self.readable is not None
        return {
            "run": self.readable["run"],
            "list": self.readable["list"],
            "read": (*self.readable["read"], *map(str, read)),
            "change": (*map(str, change), *map(str, self.settings.trainer_writes)),
            "append": tuple(map(str, append)),
            "device": DEVICES + (ACCELERATORS if accelerators else ()),
            "shared": ("/dev/shm",),
        }

    def _make(self, folder: Path, group: int, mode: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:  # by descriptor: a trainer may own the folder that this one lies in, and put a link in its place
                os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)

    def _group(self, project: str) -> int:
        return self.cache_of(project).stat().st_gid if self.user else 0

    def _group_for(self, caches: Path, project: str) -> int:
        if self.user is None:
            return 0
        taken = {folder.name: folder.stat().st_gid for folder in caches.iterdir()}
        if FIRST_GROUP <= taken.get(project, 0) <= LAST_GROUP:
            return taken[project]
        return next(group for group in range(FIRST_GROUP, LAST_GROUP + 1) if group not in taken.values())


def _limits(settings: Settings) -> dict[str, int]:
    """DATA, not AS: CUDA reserves addresses far beyond any memory, which DATA does not count."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "DATA": settings.trainer_memory_bytes or MEMORY_FACTOR * machine,
        "NPROC": settings.trainer_processes,
        "FSIZE": settings.trainer_file_bytes,
        "NOFILE": settings.trainer_open_files,
        "CORE": 0,
    }
