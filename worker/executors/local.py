"""Trainers as processes of this host."""

from collections.abc import Mapping

from worker.process.environment import trainer_environment
from worker.process.launch import Launch, Running
from worker.process.residents import Residents
from worker.process.supervise import Spawner, Supervisor
from worker.process.trainer_command import trainer_command
from worker.process.tree import ATTEMPT_MARK, WORKER_MARK
from worker.sandbox.wall import Wall
from worker.settings import Settings
from worker.transfer.inputs import cached_inputs


class LocalExecutor:
    def __init__(
        self, settings: Settings, spawner: Spawner, worker: str, environ: Mapping[str, str], wall: Wall
    ) -> None:
        self._settings = settings
        self._spawner = spawner
        self._worker = worker
        self._environ = environ
        self._wall = wall
        self.residents = Residents(settings, spawner, worker, environ, wall)

    def start(self, launch: Launch, log: int) -> Running:
        return self.residents.start(launch, log) or self._start_own(launch, log)

    def close(self) -> None:
        self.residents.close()

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
            self._spawner,
            attempt=launch.attempt,
            command=trainer_command(self._settings, launch, cache),
            folder=launch.folder,
            env=self._wall.environment({**env, **launch.secrets}, tmp=places.tmp, cache=cache),
            confinement=confinement,
            log=log,
            kill_seconds=launch.kill_seconds,
            deadline=launch.deadline,
        )
