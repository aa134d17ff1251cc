"""Optional libraries: each is imported at the top of one adapter module of ours, which is loaded by its dotted path."""

import importlib
from types import ModuleType

from trainers.contract.errors import ReasonCode, TrainerError


def optional_module(path: str, extra: str) -> ModuleType:
    """The adapter module at `path`. TrainerError MISSING_LIBRARY names the extra that its library comes with."""
    try:
        return importlib.import_module(path)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] == "trainers":
            raise  # our own mistake
        raise TrainerError(
            ReasonCode.MISSING_LIBRARY,
            f"{error.name} is not installed on this worker; install anneal[{extra}] there",
        ) from error
