"""All safetensors files of an upload: each whole and finite, and a model cut into several with none missing."""

from pathlib import PurePosixPath

from api.catalog.checking.report import Refused
from api.catalog.checking.text import json_object
from api.catalog.checking.weights import finite_check, tensors_read
from api.catalog.checking.work import Work, ending
from formats.image_configs import shard_files
from formats.kinds import ConfigError
from formats.safetensors_header import Tensors

INDEX = ".safetensors.index.json"
NAMED = 5


def tensor_files_read(work: Work) -> dict[str, Tensors]:
    """The tensors of each file by its path. Raises Refused that names the file or tensor at fault."""
    found: dict[str, Tensors] = {}
    for path in work.paths:
        if ending(path) == ".safetensors":
            found[path] = tensors_read(work.open(path), path)
            finite_check(work.open(path), path, found[path])
    for path in work.paths:
        if path.endswith(INDEX):
            _index_check(work, path, found)
    return found


def _index_check(work: Work, index: str, found: dict[str, Tensors]) -> None:
    """Each tensor that the index names lies in the file that it names."""
    try:
        places = shard_files(json_object(work, index), index)
    except ConfigError as error:
        raise Refused(*error.faults) from None
    folder = PurePosixPath(index).parent
    files = {name: str(folder / name) for name in places.values()}
    if missing := sorted(name for name, path in files.items() if path not in found):
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        said = f"{index} names {len(files)} files, but {', '.join(missing[:NAMED])[:500]}{more} did not come"
        raise Refused(said, code="shards_missing", hint="Upload every file that the index names.")
    for tensor, name in places.items():
        if tensor not in found[files[name]]:
            raise Refused(f"{index}: tensor {tensor[:200]!r} is not in {name[:200]}, which the index names for it")
