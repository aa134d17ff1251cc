"""The wall between trainers and this host: what each of them may reach, by another uid, by Landlock, or by both.

See docs/worker.md, "What a trainer can reach". Which of them works here is tried once, at the start: wall_check.py.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.sandbox.confine import Confinement, Network
from worker.settings import Settings

PROGRAMS = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/run/current-system",
    "/run/opengl-driver", "/opt/cuda*", "/opt/rocm*", "/opt/nvidia", "/opt/intel", "/opt/conda",
)  # fmt: skip
FACTS = (
    "/proc", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/localtime",
    "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/hostname", "/etc/host.conf",
    "/etc/resolv.conf", "/run/systemd/resolve", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/mime.types",
    "/etc/magic", "/etc/os-release", "/etc/locale.alias", "/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust",
    "/etc/crypto-policies", "/etc/fonts", "/etc/OpenCL", "/etc/nvidia", "/etc/vulkan", "/etc/libibverbs.d",
    "/run/nvidia-persistenced",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ACCELERATORS = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/infiniband", "/dev/dxg")
FILES_NAMED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CUDA_HOME", "CUDA_PATH")
PACKAGES = ("trainers", "formats", "foundation")
ASK = """
import importlib.util, json, sys
found = [importlib.util.find_spec(name) for name in sys.argv[1:]]
packages = [place for spec in found if spec for place in spec.submodule_search_locations or ()]
print(json.dumps({"prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix], "path": sys.path, "packages": packages}))
"""


def readable_paths(settings: Settings, environ: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Patterns by what is allowed there, as in `confine.ACCESS`. ValueError: the interpreter does not start."""
    python = _python(settings, environ)
    below, entries = _sorted(python["path"], python["prefixes"])
    named = [path for name in FILES_NAMED if (path := environ.get(name))]
    libraries = [path for path in environ.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/")]
    return {
        "run": (*PROGRAMS, *python["prefixes"], *below, *libraries, *_of_the_command(settings)),
        "read": (*FACTS, *python["packages"], *named, *map(str, settings.trainer_reads)),
        "list": tuple(entries),
    }


def _python(settings: Settings, environ: Mapping[str, str]) -> dict[str, list[str]]:
    command = [settings.trainer_python, "-c", ASK, *PACKAGES]
    try:
        result = subprocess.run(
            command, env=dict(environ), cwd=settings.state_dir, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"ANNEAL_TRAINER_PYTHON={settings.trainer_python} does not start: {error}") from error
    facts: dict[str, list[str]] = json.loads(result.stdout)
    return facts


def _sorted(path: list[str], prefixes: list[str]) -> tuple[list[str], list[str]]:
    """Entries of sys.path that hold installed packages alone, and those of which no more than the names is needed."""
    others = [entry for entry in path if entry.startswith("/") and not _inside(entry, prefixes)]
    installed = [entry for entry in others if Path(entry).name in ("site-packages", "dist-packages")]
    return installed, [entry for entry in others if entry not in installed]


def _inside(path: str, folders: list[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _of_the_command(settings: Settings) -> list[str]:
    return [word for word in settings.trainer_command if word.startswith("/") and Path(word).exists()]


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
