"""Which database and which storage a platform stands on: chosen at its first start, kept in its folder."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from cli.errors import CliError
from cli.platform.home import Home, json_read
from foundation.atomic import text_write

Database = Literal["sqlite", "postgres"]
Storage = Literal["folder", "s3"]


@dataclass(frozen=True)
class Kinds:
    database: Database = "sqlite"
    storage: Storage = "folder"


@dataclass(frozen=True)
class RequestedKinds:
    """What the command line says; None: nothing."""

    database: Database | None = None
    storage: Storage | None = None


NOTHING_REQUESTED = RequestedKinds()
NOTHING_CHOSEN = Kinds()


def kinds_kept(home: Home, asked: RequestedKinds) -> Kinds:
    """Those of the folder. Raises CliError where others are asked for: what it holds would seem to be gone."""
    path, known = home.root / "platform.json", NOTHING_CHOSEN
    if path.exists():
        known = Kinds(**json_read(path))
    elif not (home.root / "secret_key").exists():  # else it was made before there was a choice
        known = Kinds(asked.database or known.database, asked.storage or known.storage)
    for name, wanted in asdict(asked).items():
        if wanted not in (None, kept := getattr(known, name)):
            raise CliError(
                f"{home.root} was made with {kept} as its {name}, not {wanted}",
                "Start it without that option, or choose another folder with --dir.",
            )
    text_write(path, json.dumps(asdict(known)))
    return known
