"""Ends of attempts, on disk until the API has answered for good, also over a restart of the host."""

import json
from pathlib import Path
from typing import Any

import structlog

from worker.files import write_json
from worker.report import Api, RefusedError, UnreachableError

log = structlog.get_logger()


class Outbox:
    """One file per finish below `folder`, readable by us alone since it holds the attempt's token."""

    def __init__(self, folder: Path, api: Api) -> None:
        self._folder = folder
        self._refused = folder / "refused"
        self._api = api
        self._refused.mkdir(parents=True, exist_ok=True)

    def put(self, attempt: str, token: str, body: dict[str, Any]) -> None:
        write_json(self._folder / f"{attempt}.json", {"token": token, "body": body}, mode=0o600)

    def pending(self) -> list[str]:
        """Attempts whose end the API has not answered for good."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def holds(self, attempt: str) -> bool:
        return (self._folder / f"{attempt}.json").exists()

    def deliver(self, attempt: str) -> bool:
        """One try. True once the API answered 2xx, or refused for good, which is recorded."""
        path = self._folder / f"{attempt}.json"
        kept = json.loads(path.read_bytes())
        try:
            self._api.finish(attempt, kept["token"], kept["body"])
        except UnreachableError as error:
            log.warning("finish_not_delivered", attempt=attempt, error=str(error))
            return False
        except RefusedError as error:
            log.error("finish_refused", attempt=attempt, outcome=kept["body"]["outcome"], error=str(error))
            write_json(self._refused / path.name, {"error": str(error), "body": kept["body"]})
        path.unlink()
        return True
