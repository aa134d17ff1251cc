"""URL and token of the API: environment first, then ~/.config/anneal/config.json (mode 600)."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.errors import CliError, Exit
from foundation.atomic import text_write

PRIVATE = 0o600
"""Only the owner reads it: tokens and keys."""


@dataclass(frozen=True)
class Login:
    url: str
    """Root of the platform, for instance http://127.0.0.1:8000."""
    token: str


def config_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "anneal" / "config.json"


def login_load(path: Path | None = None) -> Login:
    """The login to use. Raises CliError where there is none."""
    saved = login_saved(path or config_path())
    url = os.environ.get("ANNEAL_URL") or (saved.url if saved else "")
    token = os.environ.get("ANNEAL_TOKEN") or (saved.token if saved else "")
    if not url or not token:
        raise CliError(
            "you are not logged in",
            "Run `anneal login URL`, or set ANNEAL_URL and ANNEAL_TOKEN.",
            code="not_logged_in",
            exit_code=Exit.USAGE,
        )
    return Login(url=url, token=token)


def login_saved(path: Path) -> Login | None:
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Login(url=saved["url"], token=saved["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(f"{path} is not a login: expected {{url, token}} as JSON", "Run `anneal login URL`.") from error


def login_save(login: Login, path: Path | None = None) -> Path:
    path = path or config_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text_write(path, json.dumps(asdict(login), indent=2) + "\n", mode=PRIVATE)
    return path
