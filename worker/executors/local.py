"""Trainers as processes of this host."""

from collections.abc import Mapping

from worker.environment import trainer_environment
from worker.executors.base import Launch
from worker.settings import Settings
from worker.supervise import Spawner, Supervisor


class LocalExecutor:
    def __init__(self, settings: Settings, spawner: Spawner, worker: str, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._spawner = spawner
        self._worker = worker
        self._environ = environ

    def start(self, launch: Launch, log: int) -> Supervisor:
        env = trainer_environment(
            self._environ,
            attempt=launch.attempt,
            worker=self._worker,
            accelerators=launch.accelerators,
            extra=self._settings.trainer_environment,
        )
        return Supervisor(
            self._spawner,
            attempt=launch.attempt,
            command=trainer_command(self._settings, launch),
            folder=launch.folder,
            env={**env, **launch.secrets},
            log=log,
            kill_seconds=launch.kill_seconds,
            deadline=launch.deadline,
        )


def trainer_command(settings: Settings, launch: Launch) -> list[str]:
    """One process runs without torchrun; several are its ranks."""
    folders = [str(launch.folder / name) for name in ("spec.json", "in", "out")] + [str(launch.cache)]
    if settings.trainer_command:
        return [*settings.trainer_command, *folders]
    processes = len(launch.accelerators) or launch.resources.num_processes
    if launch.resources.strategy == "single":
        return [settings.trainer_python, "-m", "trainers.run", *folders]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [settings.trainer_python, *torchrun, "-m", "trainers.run", *folders]
