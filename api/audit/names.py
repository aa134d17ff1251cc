"""Names and references that people write: `name` is the latest version, `name@3` exactly that one."""

import re

from api.errors import Problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "1 to 100 letters, digits, dots, dashes and underscores, starting with a letter or digit"
REF = re.compile(rf"(?P<name>{NAME.pattern})(@(?P<version>[1-9][0-9]{{0,8}}))?")


def name_check(name: str) -> str:
    """The name itself. Raises Problem."""
    if not NAME.fullmatch(name):
        said = f"expected {NAME_RULE}, got {name!r:.120}"
        raise Problem("invalid", f"name: {said}.", fields={"name": [said]})
    return name


def ref_read(ref: str, field: str) -> tuple[str, int | None]:
    """Name and version. Raises Problem that names `field`."""
    match = REF.fullmatch(ref)
    if match is None:
        said = f"expected name or name@version, got {ref!r:.120}; a name is {NAME_RULE}"
        raise Problem("invalid", f"{field}: {said}.", fields={field: [said]})
    version = match["version"]
    return match["name"], int(version) if version else None
