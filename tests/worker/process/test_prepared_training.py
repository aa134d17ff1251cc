"""The real trainers forked from the real prepared process: the same bits as with a new program, without the imports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainers.job import Job, job_make
from tests.worker.process.test_prepared import Trainer, prepared_process, script
from worker.process.prepared import Prepared
from worker.process.supervise import ShimSource, Spawner

STATE = """
import hashlib, os, random, sys, tempfile
new = sys.modules.get("torch") is None
import numpy, torch
print(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(), torch.initial_seed(), torch.get_num_threads(),
    torch.get_num_interop_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
    torch.backends.cudnn.benchmark, torch.cuda.is_initialized(), tempfile.gettempdir(), sys.flags.hash_randomization)
print(random.random(), numpy.random.random(), new)
"""  # noqa: E501


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    made = Spawner()
    yield made
    made.close()


@pytest.fixture(scope="module")
def prepared(spawner: Spawner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with prepared_process(spawner, tmp_path_factory.mktemp("prepared"), ("trainers.prepared",)) as made:
        yield made


def train(shims: ShimSource, root: Path, base: Path, name: str) -> tuple[Job, Trainer]:
    job = job_make(root / name, base, root / f"cache-{name}")
    trainer = Trainer(shims, job.root, "-m", "trainers.run", "spec.json", "in", "out", str(job.cache))
    assert trainer.end().code == 0, trainer.log.read_text()
    return job, trainer


def test_a_forked_training_leaves_the_bits_of_a_new_one(
    spawner: Spawner, prepared: Prepared, tiny_sd: Path, tmp_path: Path
) -> None:
    (new, first), (forked, second) = (
        train(shims, tmp_path, tiny_sd, name) for shims, name in ((spawner, "new"), (prepared, "forked"))
    )
    assert (first.is_forked, second.is_forked) == (False, True)
    assert forked.adaptor == new.adaptor and forked.losses() == new.losses()
    volatile = {"seconds", "files", "peak_memory_bytes"}
    left, right = ({k: v for k, v in job.manifest.items() if k not in volatile} for job in (new, forked))
    assert left == right


def test_generators_and_settings_of_libraries_are_those_of_a_new_process(
    spawner: Spawner, prepared: Prepared, tmp_path: Path
) -> None:
    lines = []
    for shims in (spawner, prepared, prepared):
        trainer = Trainer(shims, tmp_path / "attempt", script(tmp_path, STATE), TMPDIR=str(tmp_path))
        assert trainer.end().code == 0, trainer.log.read_text()
        lines.append(trainer.log.read_text().splitlines()[-2:])
    (new, drawn), (forked, drawn_first), (_, drawn_second) = lines
    assert forked == new and str(tmp_path) in new
    assert drawn.split()[2] == "True" and drawn_first.split()[2] == "False", "the libraries were there"
    assert not set(drawn_first.split()[:2]) & set(drawn_second.split()[:2]), "no two jobs draw the same"


def test_no_library_keeps_a_folder_of_the_prepared_process(prepared: Prepared, tmp_path: Path) -> None:
    """Folders are the job's own, so a library that looked one up at import would use another's."""
    ...
