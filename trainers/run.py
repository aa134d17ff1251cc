"""python -m trainers.run spec.json in/ out/ cache/: one job, from directory to directory.

Exit code 0 only with a whole `out/manifest.json`; 1 with the event `failed`, which has the Reason. With several
processes: torchrun --nproc-per-node 2 -m trainers.run spec.json in/ out/ cache/. One process for several jobs:
python -m trainers.run --serve cache/ (see trainers/serve.py).
"""

import argparse
import gc
import importlib
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from foundation.lifeline import tie_to_parent
from trainers.contract.errors import Reason
from trainers.contract.spec import spec_load
from trainers.optional.libraries import libraries_hide, scipy_hide_unless_used
from trainers.serve import Line, serve

JOB = "trainers.job"
"""Loaded by name, because it imports torch, and what torch imports depends on what is hidden."""
NOISY_LOGGERS = ("torchao", "torch.utils._pytree", "transformers.utils.import_utils")
"""Loggers that warn at import about what no job can change: kernels for other machines, their own deprecations, a
missing torchvision where Pillow is used instead."""


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if arguments[:1] == ["--serve"]:
        return _serve(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m trainers.run", description=__doc__)
    for name, text in (
        ("spec", "the job as JSON"),
        ("in", "inputs: dataset/ model/ adaptor/ checkpoint/ control"),
        ("out", "events, checkpoints, samples, adaptor, manifest"),
        ("cache", "latents and text embeddings, safe to delete"),
    ):
        parser.add_argument(name, type=Path, help=text)
    folders = parser.parse_args(arguments)
    inputs: Path = getattr(folders, "in")
    if problem := arguments_problem(folders.spec, inputs, folders.out, folders.cache):
        parser.exit(2, f"{problem}\n")
    tie_to_parent()
    libraries_load(folders.spec, inputs)
    code: int = importlib.import_module(JOB).run(folders.spec, inputs, folders.out, folders.cache)
    return code


def libraries_load(spec_path: Path, inputs: Path | None = None) -> None:
    """Hides the libraries that the job does not use, then imports those that it does.

    inputs: None where further jobs follow in this process, which may need scipy.
    An unreadable spec or a library that cannot be imported is not reported here: the job fails with the reason.
    """
    try:
        params = spec_load(spec_path).params
    except (OSError, ValueError):
        libraries_hide(())
        return
    libraries_hide(params.libraries())
    if inputs and not params.chooses_sampler:
        scipy_hide_unless_used(inputs / "model")
    with suppress(ImportError):
        modules_import((JOB, params.entry.partition(":")[0]))


def modules_import(names: Iterable[str]) -> None:
    """Imports `names` without garbage collection, which takes a fifth of the time and frees next to nothing.

    What exists after the first call, before any model is loaded, is exempt from collection for good.
    """
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
        gc.enable()


def arguments_problem(spec_path: Path, inputs: Path, out: Path, cache: Path) -> str:
    """What is wrong with the paths, in a sentence; empty if nothing is. The job itself reports a faulty spec."""
    recipe = "`anneal job spec ID -o DIR` writes spec.json and in/."
    if not spec_path.is_file():
        problem = "a folder" if spec_path.exists() else "not there"
        return f"spec: expected a JSON file, but {spec_path} is {problem}. {recipe}"
    if not inputs.is_dir():
        return f"in: expected a folder, but {inputs} is {'a file' if inputs.exists() else 'not there'}. {recipe}"
    for name, folder in (("out", out), ("cache", cache)):
        if folder.exists() and not folder.is_dir():
            return f"{name}: expected a folder, or a name for a new one, but {folder} is a file."
    try:
        places = spec_load(spec_path).inputs.places()
    except (OSError, ValueError):
        return ""
    missing = [place for place in places if not (inputs / place).is_dir()]
    if missing:
        return f"in: {spec_path} asks for the folders {', '.join(missing)}, which are not in {inputs}. {recipe}"
    return ""


def _serve(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainers.run --serve", description="Jobs from standard input.")
    parser.add_argument("cache", type=Path, help="latents and text embeddings, safe to delete")
    cache: Path = parser.parse_args(arguments).cache
    tie_to_parent()
    models: Any = None

    def run_one(line: Line) -> Reason | None:
        nonlocal models
        libraries_load(line.spec)
        job = importlib.import_module(JOB)
        models = models or job.ModelCache()
        failure: Reason | None = job.job_run(line.spec, line.inputs, line.out, cache, models)
        job.memory_release()
        return failure

    return serve(sys.stdin, run_one)


if __name__ == "__main__":
    sys.exit(main())
