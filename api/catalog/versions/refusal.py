"""How a check of stored files says no: a Problem that names the file."""

from typing import NoReturn

from api.errors import Problem


def refuse(said: str, *, code: str = "invalid", hint: str = "Mend the file, then upload again.") -> NoReturn:
    raise Problem(code, f"{said}.", hint=hint, fields={"files": [said]})
