"""How a trainer is started."""

from pathlib import Path

from worker.process.launch import Launch
from worker.settings import Settings


def trainer_command(settings: Settings, launch: Launch, cache: Path) -> list[str]:
    """One process runs without torchrun; several are its ranks."""
    places = launch.places
    folders = [str(path) for path in (places.spec, places.inputs, places.out, cache)]
    if settings.trainer_command or launch.resources.strategy == "single":
        return [*_single(settings), *folders]
    processes = len(launch.accelerators) or launch.resources.num_processes
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [settings.trainer_python, *torchrun, "-m", "trainers.run", *folders]


def serving_command(settings: Settings, cache: Path) -> list[str]:
    """A trainer that takes jobs from its standard input."""
    return [*_single(settings), "--serve", str(cache)]


def _single(settings: Settings) -> list[str]:
    return list(settings.trainer_command) or [settings.trainer_python, "-m", "trainers.run"]
