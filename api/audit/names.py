"""Names and references: `name` is the latest version, `name@3` exactly that one."""

import re

from api.errors import Problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "1 to 100 letters, digits, dots, dashes and underscores, starting with a letter or digit"
REF = re.compile(rf"(?P<name>{NAME.pattern})(@(?P<version>[1-9][0-9]{{0,8}}))?")


def name_check(name: str) -> str:
    """Returns the name if it is valid. Raises Problem."""
    if not NAME.fullmatch(name):
        message = f"expected {NAME_RULE}, got {name!r:.120}"
        raise Problem("invalid", f"name: {message}.", fields={"name": [message]})
    return name


def ref_read(ref: str, field: str) -> tuple[str, int | None]:
    """Parses name and version. Raises Problem for `field`."""
    match = REF.fullmatch(ref)
    if match is None:
        message = f"expected name or name@version, got {ref!r:.120}; a name is {NAME_RULE}"
        raise Problem("invalid", f"{field}: {message}.", fields={field: [message]})
    version = match["version"]
    return match["name"], int(version) if version else None
