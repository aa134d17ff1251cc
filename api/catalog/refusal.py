"""How a check says no: a Problem that names the file."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

from api.errors import Problem

Result = TypeVar("Result")


def refuse(said: str, *, code: str = "invalid", hint: str = "Mend the file, then upload again.") -> NoReturn:
    raise Problem(code, f"{said}.", hint=hint, fields={"files": [said]})


def refused_if_wrong(check: Callable[[], Result]) -> Result:
    """What `check` gives; its ValueError becomes the refusal."""
    try:
        return check()
    except Problem:
        raise
    except ValueError as error:
        refuse(str(error))
