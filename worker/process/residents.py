"""Trainers that stay: after a sampling job its base model waits in memory for the next one.

One such trainer, a resident, works on one attempt at a time and belongs to it while it does: the attempt's stop, kill
and lease act on the resident's whole process tree. Between two attempts it has no lease, holds nothing but its model,
and ends when another job needs its accelerators, when another base model needs its place, or when nobody asks for it.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping

import structlog

from worker.process.launch import Launch, Running, room_in, serving_command, trainer_environment
from worker.process.resident import Resident
from worker.process.supervise import ShimSource
from worker.process.tree import RESIDENT_MARK, WORKER_MARK
from worker.sandbox.wall import Wall
from worker.settings import Settings
from worker.transfer.files import remove_tree

log = structlog.get_logger()


class Residents:
    """At most `ANNEAL_RESIDENT_MODELS` of them, the least recently used one goes first."""

    def __init__(
        self,
        settings: Settings,
        shims_for: Callable[[Launch], ShimSource],
        worker: str,
        environ: Mapping[str, str],
        wall: Wall,
    ) -> None:
        self._settings = settings
        self._shims_for = shims_for
        self._worker = worker
        self._environ = environ
        self._wall = wall
        self._folder = settings.state_dir / "residents"
        remove_tree(self._folder)
        self._folder.mkdir(parents=True)
        self._all: list[Resident] = []
        self._lock = threading.Lock()

    def start(self, launch: Launch, log: int) -> Running | None:
        """The attempt in the resident of its base model; None where it must have a trainer of its own."""
        if not launch.reuse_key or not self._settings.resident_models:
            return None
        with self._lock:
            resident = self._waiting_for(launch)
            if resident is None:
                if not self._has_place():
                    return None
                resident = self._start(launch)
            return resident.begin(launch, log, self._over)

    def make_room(self, accelerators: tuple[int, ...]) -> None:
        """Ends those that wait on one of these accelerators (none: on the CPU), for a trainer that needs them."""
        with self._lock:
            self._evict(accelerators)

    def count(self) -> int:
        return len(self._all)

    def close(self) -> None:
        with self._lock:
            for resident in list(self._all):
                self._end(resident, "the worker ends")

    def _waiting_for(self, launch: Launch) -> Resident | None:
        self._forget_dead()
        key = (launch.reuse_key, launch.accelerators)
        return next((entry for entry in self._all if entry.is_idle and entry.key == key), None)

    def _start(self, launch: Launch) -> Resident:
        name = str(uuid.uuid4())
        env = trainer_environment(
            self._environ,
            marks={RESIDENT_MARK: name, WORKER_MARK: self._worker},
            accelerators=launch.accelerators,
            extra=self._settings.trainer_environment,
        )
        room = room_in(self._folder, launch.reuse_key, launch.accelerators)
        cache = self._wall.cache_of(launch.project)
        tmp = room.tmp / name
        folder = self._folder / name
        self._wall.open_folders(launch.project, passed=(folder,), changed=(tmp,))
        confinement = self._wall.confinement(
            read=(room.inputs,),
            change=(room.out, tmp, cache),
            append=(room.logs,),
            network=launch.network,
            accelerators=bool(launch.accelerators),
            project=launch.project,
        )
        resident = Resident(
            self._shims_for(launch),
            name=name,
            key=(launch.reuse_key, launch.accelerators),
            command=serving_command(self._settings, cache),
            folder=folder,
            tmp=tmp,
            env=self._wall.environment(env, tmp=tmp, cache=cache),
            confinement=confinement,
            logs=room.logs,
            give=lambda path: self._wall.give(path, launch.project, 0o620),
            kill_seconds=launch.kill_seconds,
        )
        self._all.append(resident)
        log.info("resident_started", resident=name, accelerators=launch.accelerators)
        return resident

    def _has_place(self) -> bool:
        """Makes one if need be; False while all of them work."""
        self._forget_dead()
        idle = sorted((entry for entry in self._all if entry.is_idle), key=lambda entry: entry.idle_since)
        for resident in idle:
            if len(self._all) < self._settings.resident_models:
                break
            self._end(resident, "another base model is wanted")
        return len(self._all) < self._settings.resident_models

    def _evict(self, accelerators: tuple[int, ...]) -> None:
        self._forget_dead()
        for resident in [entry for entry in self._all if entry.is_idle]:
            held = resident.key[1]
            if set(held) & set(accelerators) or not (held or accelerators):
                self._end(resident, "its accelerators are needed")

    def _over(self, resident: Resident) -> None:
        """An attempt has ended and the resident waits: not for ever."""
        since = resident.idle_since
        timer = threading.Timer(self._settings.resident_seconds, self._expire, (resident, since))
        timer.daemon = True
        timer.start()

    def _expire(self, resident: Resident, since: float) -> None:
        with self._lock:
            if resident in self._all and resident.is_idle and resident.idle_since == since:
                self._end(resident, f"unused for {time.monotonic() - since:.0f} s")

    def _end(self, resident: Resident, why: str) -> None:
        """Returns once nothing of it is left."""
        resident.end()
        self._all.remove(resident)
        log.info("resident_ended", resident=resident.name, why=why)

    def _forget_dead(self) -> None:
        self._all = [resident for resident in self._all if not resident.is_dead]
