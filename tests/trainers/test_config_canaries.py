"""No file that a base model's configuration names reaches anything that a job leaves: out/, cache/, events, its log."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from formats.models.configs import ConfigError
from formats.models.image_configs import pipeline_keys_ignored
from formats.models.text_configs import text_keys_ignored
from formats.models.tokenizer_files import ROLES
from foundation.strict_json import JsonError
from tests.trainers.canaries import Canaries, Place, places_in, places_write
from tests.trainers.job import Job, job_make
from tests.trainers.text.job import text_job
from trainers.contract.errors import ReasonCode

SELECTORS = ("tokenizer_class", "model_type", "architectures", "_class_name")
"""Keys that choose the class which reads the others: replaced in jobs of their own, so that the class stays."""
TEXT = {"train_steps": 1, "log_to_tensorboard": True, "save_steps": 1}
TEXT |= {"eval_strategy": "steps", "eval_steps": 1, "eval_prompts": ("the cat",), "validation_split": 0.2}
IMAGE = {"max_train_steps": 1, "checkpoint_every_steps": 1, "log_to_tensorboard": True, "eval_prompt": "cat"}
IMAGE |= {"eval_every_steps": 1, "eval_num_inference_steps": 1}


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Canaries(Path(folder))


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("dream", "dream"),
        pytest.param("bert", "bert", marks=pytest.mark.slow),
        pytest.param("llada", "llada", marks=pytest.mark.slow),
        pytest.param("modernbert", "bert", marks=pytest.mark.long),
        pytest.param("qwen3", "llada", marks=pytest.mark.long),
        pytest.param("llama", "llada", marks=pytest.mark.long),
    ],
)
def test_no_string_of_a_text_base_copies_a_file_into_the_jobs_output(
    tiny_text: Callable[[str], Path],
    tmp_path: Path,
    canaries: Canaries,
    capfd: pytest.CaptureFixture[str],
    family: str,
    method: str,
) -> None:
    def make(root: Path, base: Path) -> Job:
        return text_job(root, base, **TEXT, training_method=method)

    every_string_replaced(
        tiny_text(family), lambda folder: text_keys_ignored(folder, family), make, tmp_path, canaries, capfd
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["sd1", "sd3", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("sdxl", "flux"))]
)
def test_no_string_of_an_image_base_copies_a_file_into_the_jobs_output(
    tiny_base: Callable[[str], Path],
    tmp_path: Path,
    canaries: Canaries,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    def make(root: Path, base: Path) -> Job:
        return job_make(root, base, root / "cache", sizes=((64, 64),) * 2).spec(**IMAGE)

    every_string_replaced(tiny_base(kind), pipeline_keys_ignored, make, tmp_path, canaries, capfd)


def every_string_replaced(
    base: Path,
    check: Callable[[Path], object],
    make: Callable[[Path, Path], Job],
    root: Path,
    canaries: Canaries,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every place of `base` is in a job that succeeded, or is refused by `check` or as the base model's fault.

    Special tokens, and what chooses a class, are in one job each, whose refusal is as good as a success.
    """
    counter = iter(range(10_000))
    readable = [place for place in places_in(base) if is_readable(base, place, check, root / "checked", canaries)]

    def failure(places: Sequence[Place]) -> str | None:
        """Runs the job with canaries at all of `places` and looks through what it leaves. Returns why it failed."""
        folder = root / str(next(counter))
        model = Path(shutil.copytree(base, folder / "model"))
        places_write(model, places, canaries)
        job = make(folder / "job", model)
        code = job.run()
        assert canaries.copies([job.out, job.cache], *capfd.readouterr()) == []
        if code == 0:
            return None
        assert job.failure().reason.code == ReasonCode.BAD_BASE_MODEL, job.failure().reason
        return job.failure().reason.message

    selectors = [place for place in readable if set(place.keys) & set(SELECTORS)]
    tokens = [place for place in readable if is_token(place)]
    accepted, refused = settle([place for place in readable if place not in (*selectors, *tokens)], failure, canaries)
    assert len(accepted) > len(refused) + len(tokens)
    failure(selectors)
    failure(tokens)


def is_token(place: Place) -> bool:
    """A special token's text: as a token the network has no row for it, so most of them are refused one by one.

    `test_hostile_configs.py` looks at each alone, in what the tokenizer saves.
    """
    return bool(set(place.keys) & {*ROLES, "added_tokens", "added_tokens_decoder", "extra_special_tokens"})


def is_readable(base: Path, place: Place, check: Callable[[Path], object], folder: Path, canaries: Canaries) -> bool:
    """Whether the reader of configurations takes `base` with a canary at `place`."""
    if not folder.exists():
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    original = (folder / place.file).read_text()
    places_write(folder, [place], canaries)
    try:
        check(folder)
    except (ConfigError, JsonError) as error:
        assert canaries.copies([], str(error)) == []
        return False
    finally:
        (folder / place.file).write_text(original)
    return True


def settle(
    places: list[Place], failure: Callable[[Sequence[Place]], str | None], canaries: Canaries
) -> tuple[list[Place], list[Place]]:
    """The places that one job accepts together, and those that were taken out because they are refused."""
    refused: list[Place] = []
    while (message := failure(places)) is not None:
        culprit = canaries.named_in(message) or shortest_failing(places, failure)[-1]
        places = [place for place in places if place != culprit]
        refused.append(culprit)
    return places, refused


def shortest_failing(places: list[Place], failure: Callable[[Sequence[Place]], str | None]) -> list[Place]:
    """The shortest beginning of `places` that makes the job fail; all of them do."""
    succeeding, failing = 0, len(places)
    while failing - succeeding > 1:
        middle = (succeeding + failing) // 2
        if failure(places[:middle]) is None:
            succeeding = middle
        else:
            failing = middle
    return places[:failing]
