"""Writes docs/configuration.md from the settings files: python -m docs.configuration."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from api.environment import Environment
from trainers.contract.params.reference import range_text
from worker.settings import Settings

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Which settings are there?

Every variable that Anneal reads, written from `api/environment.py` and `worker/settings.py` by
`python -m docs.configuration` (part of `make docs`); do not edit by hand. `tests/test_configuration.py` fails where the
page is not current, and where the code names a variable that is not here. A wrong value stops the process at its start
with one sentence. Switches take `true` and `false`.
"""
API = "Read by `python -m api ...` and by the API's server process; the same values in every process of one platform."
WORKER = "Read by `python -m worker`; how to run one is in [worker.md](worker.md)."
PEOPLE = """Read by `anneal` and by the [Python client](client.md). `anneal up` makes the places of the settings above
itself (database, storage, broker, addresses, keys) and passes on the rest from its own environment, as in
`ANNEAL_SLOTS=2 anneal up`.

| variable | default | meaning |
|---|---|---|
| `ANNEAL_URL` | that of `anneal login` | Root of the platform, for instance `http://127.0.0.1:8000`. |
| `ANNEAL_TOKEN` | that of `anneal login` | A user token `ant_...`. |
| `ANNEAL_PASSWORD` | asked for | Password for `anneal login`. |
| `XDG_CONFIG_HOME` | `~/.config` | `anneal login` saves to `anneal/config.json` in it (mode 600). |"""
OWN = """Set by Anneal for its own child processes; never set them yourself.

| variable | meaning |
|---|---|
| `ANNEAL_ATTEMPT`, `ANNEAL_WORKER_ID` | Mark the processes of an attempt, so that none is left behind. |
| `ANNEAL_DEADMAN_FD`, `ANNEAL_PARENT_PID` | Let a trainer notice that its host is gone. |
| `ANNEAL_RESERVED` | Keeps room for those marks in the process that trainers are forked from. |
| `ANNEAL_RESIDENT` | Marks the processes of a trainer that stays after a sampling job. |
| `ANNEAL_WAKE_SOCKET`, `ANNEAL_HOST_PID` | Connect the worker's Celery consumer with its host. |
| `ANNEAL_SECRET_<NAME>` | A project secret that the job names, in the trainer's environment. |"""


def main() -> int:
    PAGE.write_text(configuration_page(), encoding="utf-8")
    return 0


def configuration_page() -> str:
    sections = {
        "The API": f"{API}\n\n{settings_table(Environment)}",
        "A worker": f"{WORKER}\n\n{settings_table(Settings)}",
        "The command line": PEOPLE,
        "Not yours": OWN,
    }
    return HEAD + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def settings_table(settings: type[BaseModel]) -> str:
    schema = settings.model_json_schema()
    required = schema.get("required", [])
    rows = [setting_row(name, spec, name in required) for name, spec in schema["properties"].items()]
    return "\n".join(["| variable | default | allowed | meaning |", "|---|---|---|---|", *rows])


def setting_row(name: str, spec: dict[str, Any], required: bool) -> str:
    default = "must be set" if required else default_text(spec.get("default"))
    cells = (f"`ANNEAL_{name.upper()}`", default, allowed_text(spec), spec["description"])
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def default_text(value: Any) -> str:
    """As it would be written in the environment."""
    if value in (None, "", [], {}):
        return "empty"
    if value == sys.executable:
        return "the worker's own"
    if isinstance(value, list):
        return f"`{','.join(value)}`"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def allowed_text(spec: dict[str, Any]) -> str:
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if spec.get("type") == "boolean":
        return "`true`, `false`"
    if spec.get("minLength", 0) > 1 and "maxLength" not in spec:
        return f"{spec['minLength']} characters or more"
    return "" if spec.get("type") == "array" else range_text(spec)


if __name__ == "__main__":
    sys.exit(main())
