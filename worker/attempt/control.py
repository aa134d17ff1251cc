"""Writes `in/control`, the way that a running trainer is spoken to."""

from pathlib import Path
from typing import Any

from worker.transfer.files import write_json

SEQS_PER_ATTEMPT = 1 << 20


class ControlFile:
    """Commands of the API and of the agent in one sequence that rises from attempt to attempt.

    A trainer that resumes counts what its checkpoint obeyed as obeyed, so a new attempt must not start again at 1.
    The API's own seq is put back into the event that answers.
    """

    def __init__(self, path: Path, attempt_n: int) -> None:
        self._path = path
        self._seq = attempt_n * SEQS_PER_ATTEMPT
        self._api_seqs: dict[int, int] = {}
        self._stopping = False

    def request(self, command: str, api_seq: int) -> None:
        """save_now or sample_now; the same api_seq again does nothing, and nothing overtakes a stop."""
        if not self._stopping and api_seq not in self._api_seqs.values():
            self._write(command, api_seq)

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._write("stop", 0)

    def with_api_seq(self, event: dict[str, Any]) -> dict[str, Any]:
        """A `control` event with the seq that the API knows (0 for our own stop); any other event unchanged."""
        data = event["data"]
        if data["kind"] != "control" or data["seq"] not in self._api_seqs:
            return event
        return {**event, "data": {**data, "seq": self._api_seqs[data["seq"]]}}

    def _write(self, command: str, api_seq: int) -> None:
        write_json(self._path, {"seq": self._seq + 1, "command": command})
        self._seq += 1
        self._api_seqs[self._seq] = api_seq
