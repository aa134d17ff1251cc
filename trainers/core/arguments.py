"""What a person who runs a trainer by hand may have got wrong."""

from pathlib import Path

from trainers.contract.spec import spec_load


def arguments_problem(spec_path: Path, inputs: Path, out: Path, cache: Path) -> str:
    """What is wrong with the paths, in a sentence; empty where nothing is. A faulty spec is the job's own failure."""
    recipe = "`anneal job spec ID -o DIR` writes spec.json and in/."
    if not spec_path.is_file():
        what = "a folder" if spec_path.exists() else "not there"
        return f"spec: expected a JSON file, but {spec_path} is {what}. {recipe}"
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
