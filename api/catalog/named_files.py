"""Checks that the dataset has the files that a job's parameters name, before the job is queued."""

from pathlib import PurePosixPath

from api.catalog.selectors import input_files
from api.errors import Problem
from trainers.contract.spec import JobSpec

MAX_NAMED = 5
"""Files of the dataset in an error."""


def named_files_check(spec: JobSpec) -> None:
    """Raises Problem that names the parameter, the file, and files of the dataset."""
    params = spec.params
    named = {name: str(path) for name in params.dataset_files if (path := getattr(params, name))}
    if not named or spec.inputs.dataset is None:
        return
    paths = sorted(str(file["path"]) for file in input_files(spec.inputs.dataset))
    for name, path in named.items():
        if str(PurePosixPath(path)) not in paths:
            more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
            message = f"{spec.inputs.dataset.name} has no file {path!r}; it has {', '.join(paths[:MAX_NAMED])}{more}"
            raise Problem("invalid", f"params.{name}: {message}.", fields={f"params.{name}": [message]})
