"""Writes `in/control`, which sends commands to a running trainer."""

from pathlib import Path
from typing import Any

from worker.transfer.files import write_json

SEQS_PER_ATTEMPT = 1 << 20


class ControlFile:
    """Numbers commands of the API and of the agent in one sequence that rises from attempt to attempt.

    A resumed trainer skips commands that its checkpoint has already obeyed, so a new attempt must not start at 1
    again. The event that answers a command carries the API's own seq.
    """

    def __init__(self, path: Path, attempt_n: int) -> None:
        self._path = path
        self._seq = attempt_n * SEQS_PER_ATTEMPT
        self._api_seqs: dict[int, int] = {}
        self._stopping = False

    def request(self, command: str, api_seq: int) -> None:
        """Writes save_now or sample_now. Does nothing if `api_seq` was already written, or after a stop."""
        if not self._stopping and api_seq not in self._api_seqs.values():
            self._write(command, api_seq)

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._write("stop", 0)

    def with_api_seq(self, event: dict[str, Any]) -> dict[str, Any]:
        """Returns a `control` event with the seq of the API (0 for the agent's own stop), any other event unchanged."""
        data = event["data"]
        if data["kind"] != "control" or data["seq"] not in self._api_seqs:
            return event
        return {**event, "data": {**data, "seq": self._api_seqs[data["seq"]]}}

    def _write(self, command: str, api_seq: int) -> None:
        write_json(self._path, {"seq": self._seq + 1, "command": command})
        self._seq += 1
        self._api_seqs[self._seq] = api_seq
