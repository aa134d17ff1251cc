"""The real trainers forked from the real prepared process: the same bits as in a new program, without the imports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainers.job import Job, job_make
from tests.worker.process.test_prepared import Trainer, prepared_process, script
from worker.process.prepared import MODULES, OF_THE_JOB, Prepared
from worker.process.supervise import ShimSource, Spawner

STATE = """
import random, sys, tempfile
new = "torch" not in sys.modules
import numpy, torch
print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
    torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.cuda.is_initialized(),
    tempfile.gettempdir(), sys.flags.hash_randomization)
print(new, random.random(), numpy.random.random(), torch.rand(1).item())
"""
FOLDERS = """
import sys
from pathlib import Path
keepers = set()
for name, module in list(sys.modules.items()):
    for value in list(getattr(module, "__dict__", {}).values()):
        if isinstance(value, (str, Path)) and PLACE in str(value):
            keepers.add(name.partition(".")[0])
print(sorted(keepers))
"""

LATE = """
import re, sys
from trainers import run
before, compiled = set(sys.modules), []
compile_plain = re._compiler.compile
re._compiler.compile = lambda *args: compiled.append(args) or compile_plain(*args)
code = run.main(["spec.json", "in", "out", CACHE])
print(len(compiled), *sorted(set(sys.modules) - before))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for every folder that is a job's own."""
    return tmp_path_factory.mktemp("place-of-the-prepared-process")


@pytest.fixture(scope="module")
def prepared(spawner: Spawner, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    folders = {name: str(place) for name in OF_THE_JOB if not name.startswith(("ANNEAL_", "CUDA_VISIBLE"))}
    with prepared_process(spawner, tmp_path_factory.mktemp("prepared"), MODULES, **folders) as process:
        yield process


def train(shims: ShimSource, root: Path, base: Path) -> tuple[Job, Trainer]:
    job = job_make(root, base, root / "cache")
    trainer = Trainer(shims, job.root, "-m", "trainers.run", "spec.json", "in", "out", str(job.cache))
    assert trainer.end().code == 0, trainer.log.read_text()
    return job, trainer


def test_a_forked_training_leaves_the_bits_of_a_new_one(
    spawner: Spawner, prepared: Prepared, tiny_sd: Path, tmp_path: Path
) -> None:
    new, first = train(spawner, tmp_path / "new", tiny_sd)
    forked, second = train(prepared, tmp_path / "forked", tiny_sd)
    assert (first.is_forked, second.is_forked) == (False, True)
    assert forked.adaptor == new.adaptor and forked.losses() == new.losses()
    volatile = {"seconds", "files", "peak_memory_bytes"}
    left, right = ({k: v for k, v in job.manifest.items() if k not in volatile} for job in (new, forked))
    assert left == right


def test_settings_of_libraries_are_those_of_a_new_process_and_no_two_jobs_draw_the_same(
    spawner: Spawner, prepared: Prepared, tmp_path: Path
) -> None:
    lines = []
    for shims in (spawner, prepared, prepared):
        folder = tmp_path / f"attempt-{len(lines)}"
        trainer = Trainer(shims, folder, script(tmp_path, STATE), TMPDIR=str(tmp_path))
        assert trainer.end().code == 0, trainer.log.read_text()
        lines.append(trainer.log.read_text().splitlines())
    (new, first_draws), (forked, second_draws), (_, third_draws) = lines
    assert forked == new and str(tmp_path) in new
    assert [line.split()[0] for line in (first_draws, second_draws)] == ["True", "False"], "the libraries were there"
    assert not set(second_draws.split()[1:]) & set(third_draws.split()[1:])


def test_what_keeps_a_folder_of_the_prepared_process_is_for_the_hub_or_finds_nothing_there(
    prepared: Prepared, place: Path, tmp_path: Path
) -> None:
    """What looked a folder up at import does not use the job's. Jobs that ask the Hub start anew; `site` and fsspec
    look for settings below HOME, which is empty for a job too."""
    trainer = Trainer(prepared, tmp_path / "attempt", script(tmp_path, FOLDERS.replace("PLACE", repr(place.name))))
    assert trainer.end().code == 0 and trainer.is_forked, trainer.log.read_text()
    keepers = trainer.log.read_text().splitlines()[-1]
    assert keepers == "['accelerate', 'diffusers', 'fsspec', 'huggingface_hub', 'site', 'transformers']"


def test_a_forked_training_imports_nothing_more_and_compiles_few_patterns(
    prepared: Prepared, tiny_sd: Path, tmp_path: Path
) -> None:
    job = job_make(tmp_path / "job", tiny_sd, tmp_path / "cache")
    trainer = Trainer(prepared, job.root, script(tmp_path, LATE.replace("CACHE", repr(str(job.cache)))))
    assert trainer.end().code == 0 and trainer.is_forked, trainer.log.read_text()
    patterns, *modules = trainer.log.read_text().splitlines()[-1].split()
    heavy = ("foundation", "formats", "trainers", "diffusers", "transformers", "peft", "accelerate", "pydantic")
    assert [name for name in modules if name.partition(".")[0] in heavy] == []
    assert int(patterns) < 100
