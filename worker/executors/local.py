"""Trainers as processes of this host."""

from collections.abc import Mapping

import structlog

from worker.process.launch import Launch, Running, trainer_command, trainer_environment
from worker.process.prepared import Prepared, prepared_problem
from worker.process.residents import Residents
from worker.process.supervise import ShimSource, Spawner, Supervisor
from worker.process.tree import ATTEMPT_MARK, WORKER_MARK
from worker.sandbox.wall import Wall
from worker.settings import Settings
from worker.transfer.inputs import cached_inputs

log = structlog.get_logger()


class LocalExecutor:
    def __init__(
        self, settings: Settings, spawner: Spawner, worker: str, environ: Mapping[str, str], wall: Wall
    ) -> None:
        self._settings = settings
        self._spawner = spawner
        self._worker = worker
        self._environ = environ
        self._wall = wall
        self._prepared = self._prepared_process()
        self.residents = Residents(settings, self._shims_for, worker, environ, wall)

    def is_preparing(self) -> bool:
        return bool(self._prepared and self._prepared.is_preparing())

    def start(self, launch: Launch, log: int) -> Running:
        return self.residents.start(launch, log) or self._start_own(launch, log)

    def close(self) -> None:
        self.residents.close()
        if self._prepared:
            self._prepared.close()

    def _prepared_process(self) -> Prepared | None:
        """None where trainers always start anew; the log says why."""
        if not self._settings.prefork:
            return None
        if problem := prepared_problem(self._settings):
            log.info("no_prepared_process", why=problem)
            return None
        folder = self._settings.state_dir / "prepared"
        folder.mkdir(exist_ok=True)
        env = trainer_environment(self._environ, marks={}, accelerators=(), extra=self._settings.trainer_environment)
        return Prepared(self._spawner, folder=folder, env=self._wall.environment(env, tmp=folder, cache=folder))

    def _shims_for(self, launch: Launch) -> ShimSource:
        return self._prepared if self._prepared and launch.can_be_forked else self._spawner

    def _start_own(self, launch: Launch, log: int) -> Supervisor:
        """A trainer for this attempt alone; those that only wait are in its way where they hold its accelerators."""
        self.residents.make_room(launch.accelerators)
        env = trainer_environment(
            self._environ,
            marks={ATTEMPT_MARK: launch.attempt, WORKER_MARK: self._worker},
            accelerators=launch.accelerators,
            extra=self._settings.trainer_environment,
        )
        places, cache = launch.places, self._wall.cache_of(launch.project)
        confinement = self._wall.confinement(
            read=(places.spec, places.inputs, *cached_inputs(places.inputs)),
            change=(places.out, places.tmp, cache),
            network=launch.network,
            accelerators=bool(launch.accelerators),
            project=launch.project,
        )
        return Supervisor(
            self._shims_for(launch),
            attempt=launch.attempt,
            command=trainer_command(self._settings, launch, cache),
            folder=launch.folder,
            env=self._wall.environment({**env, **launch.secrets}, tmp=places.tmp, cache=cache),
            confinement=confinement,
            log=log,
            kill_seconds=launch.kill_seconds,
            deadline=launch.deadline,
        )
