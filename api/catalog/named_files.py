"""What a job's parameters name in its dataset must be there before the job waits for a worker."""

from pathlib import PurePosixPath

from api.catalog.selectors import input_files
from api.errors import Problem
from trainers.contract.spec import JobSpec

NAMED = 5
"""How many files of the dataset an error names."""


def named_files_check(spec: JobSpec) -> None:
    """Raises Problem that names the parameter, the file and what the dataset has instead."""
    params = spec.params
    given = {name: str(path) for name in params.dataset_files if (path := getattr(params, name))}
    if not given or spec.inputs.dataset is None:
        return
    paths = sorted(str(file["path"]) for file in input_files(spec.inputs.dataset))
    for name, wanted in given.items():
        if str(PurePosixPath(wanted)) not in paths:
            more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
            said = f"{spec.inputs.dataset.name} has no file {wanted!r}; it has {', '.join(paths[:NAMED])}{more}"
            raise Problem("invalid", f"params.{name}: {said}.", fields={f"params.{name}": [said]})
