"""Which wall works on this host: each is tried with a real process, which must be refused what no trainer may have."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from worker.sandbox.confine import confine
from worker.sandbox.landlock import MINIMUM_ABI, landlock_abi
from worker.sandbox.wall import User, Wall, readable_paths
from worker.settings import Settings

NOBODY = 65_534
"""Who trainers are where the worker is root and the kernel has no Landlock."""
NO_WALL = "Trainers can read the worker's files"
TRY = """
import os, sys
inside, *secrets = sys.argv[1:]
os.listdir(inside)
open(inside + "/written", "w").close()
for path in secrets:
    try:
        (os.listdir if os.path.isdir(path) else lambda name: open(name, "rb").read(1))(path)
    except OSError:
        continue
    sys.exit(f"{path} can be read")
print("held", flush=True)
sys.stdin.read()
"""
log = structlog.get_logger()


def wall_here(settings: Settings, environ: Mapping[str, str]) -> Wall:
    """The best wall that works. Raises ValueError where one that the operator asked for does not."""
    if settings.trainer_wall == "off":
        return Wall(settings, None, None, f"{NO_WALL}: ANNEAL_TRAINER_WALL=off.")
    problems: list[str] = []
    for wall in _candidates(settings, environ, problems):
        problem = _problem(wall, environ)
        if not problem:
            log.info("trainer_wall", kind=wall.kind)
            return wall
        problems.append(f"{wall.kind}: {problem}")
    why = f"{NO_WALL} ({'; '.join(problems)})."
    if settings.trainer_wall != "auto" or settings.trainer_user:
        requested = f"ANNEAL_TRAINER_WALL={settings.trainer_wall}, ANNEAL_TRAINER_USER={settings.trainer_user}"
        raise ValueError(f"{why} {requested} needs one that works; see docs/worker.md")
    log.error("no_trainer_wall", why=why)
    return Wall(settings, None, None, why)


def _candidates(settings: Settings, environ: Mapping[str, str], problems: list[str]) -> Iterator[Wall]:
    """Both where a user is named, else Landlock, else the user `nobody` where the worker is root."""
    user = _user(settings.trainer_user) if settings.trainer_user else None
    if settings.trainer_wall != "user":
        abi = landlock_abi()
        if abi >= MINIMUM_ABI:
            yield Wall(settings, user, readable_paths(settings, environ))
        else:
            problems.append(f"landlock: the kernel has version {abi}, expected {MINIMUM_ABI} (Linux 5.19) or newer")
    if settings.trainer_wall != "landlock":
        if os.geteuid() == 0:
            yield Wall(settings, user or User(NOBODY, ()), None)
        else:
            problems.append("user: the worker is not root")


def _user(name: str) -> User:
    if os.geteuid() != 0:
        raise ValueError(f"ANNEAL_TRAINER_USER={name} needs a worker that is root; this one has uid {os.geteuid()}")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise ValueError(f"ANNEAL_TRAINER_USER={name}: there is no such user") from None
        return User(int(name), ())
    if entry.pw_uid == 0:
        raise ValueError(f"ANNEAL_TRAINER_USER={name}: expected a user other than root")
    return User(entry.pw_uid, tuple(group for group in os.getgrouplist(entry.pw_name, entry.pw_gid) if group))


def _problem(wall: Wall, environ: Mapping[str, str]) -> str:
    """Why this wall does not hold here, or lets no trainer work; "" where it is good."""
    settings = wall.settings
    if wall.user and (barred := wall_barred(settings.state_dir, settings.trainer_python)):
        return barred
    folder = settings.state_dir / "wall-check"
    folder.mkdir(exist_ok=True)
    try:
        return _tried(wall, folder, environ)
    finally:
        shutil.rmtree(folder)


def _tried(wall: Wall, folder: Path, environ: Mapping[str, str]) -> str:
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    if wall.user:
        wall.settings.state_dir.chmod(0o711)
        folder.chmod(0o711)
        os.chown(inside, wall.user.uid, -1)
    project = "wall-check"
    confinement = wall.confinement(read=(), change=(inside,), network="none", accelerators=False, project=project)
    canary = wall.settings.state_dir / "worker-id"
    canary.chmod(0o600)
    secrets = [str(canary), *(f"/proc/{os.getpid()}/{name}" for name in ("environ", "mem", "cwd"))]
    child = subprocess.Popen(
        [wall.settings.trainer_python, "-I", "-S", "-c", TRY, str(inside), *secrets],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        env={"PATH": environ.get("PATH", os.defpath)},
        preexec_fn=lambda: confine(confinement),
    )  # fmt: skip
    assert child.stdout is not None
    held = child.stdout.readline() == "held\n"
    is_found = held and (not wall.user or _is_readable(child.pid))
    _, errors = child.communicate(timeout=60)
    wall.cache_of(project).rmdir()
    if held and not is_found:
        return "the worker cannot see which processes of that user are its own; give it CAP_SYS_PTRACE"
    return "" if held else (errors.strip().splitlines() or ["no answer"])[-1]


def _is_readable(pid: int) -> bool:
    """Its environment, which the marks of attempts are looked for in."""
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False


def wall_barred(*paths: Path | str) -> str:
    """The first folder on the way that another user cannot pass."""
    for path in map(Path, paths):
        for folder in (*reversed(path.parents), *reversed(path.resolve().parents)):
            if not folder.stat().st_mode & 0o001:
                return f"another user cannot pass {folder} on the way to {path}"
    return ""
