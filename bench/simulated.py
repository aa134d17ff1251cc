"""Simulated workers: call the API with the worker protocol and time each response."""

import time
import uuid
from typing import Any

import httpx

from cli.http import Record


class SimulatedWorker:
    def __init__(self, url: str, token: str, pool: str, *, slots: int = 1, accelerators: int = 0) -> None:
        self.http = httpx.Client(base_url=f"{url}/internal/v1/", timeout=60)
        self._token = token
        self._who = {"worker": str(uuid.uuid4()), "boot_id": str(uuid.uuid4())}
        self._pools = [pool]
        self._cards = list(range(accelerators))
        cards = [{"index": index, "name": "simulated"} for index in self._cards]
        capacity = {"host": "simulated", "pools": self._pools, "slots": slots, "accelerators": cards}
        self._post("workers/hello", token, {**self._who, **capacity})

    def claim(self) -> tuple[float, Record | None]:
        """Seconds, and the claimed attempt, if any."""
        request = {"claim_id": str(uuid.uuid4()), "pools": self._pools, "free_accelerators": self._cards}
        return self._post("claims", self._token, {**self._who, **request})

    def heartbeat(self) -> float:
        return self._post("workers/heartbeat", self._token, {**self._who, "free_slots": 0})[0]

    def heartbeat_request(self) -> dict[str, Any]:
        """Arguments of the heartbeat request, for other HTTP clients."""
        return {"json": {**self._who, "free_slots": 0}, "headers": {"Authorization": f"Bearer {self._token}"}}

    def attempt_heartbeat(self, claim: Record) -> float:
        return self.emit(claim, "heartbeat", {"fence": claim["attempt"]["fence"], "progress_seq": 0})

    def emit(self, claim: Record, what: str, body: dict[str, Any]) -> float:
        """Calls the API for an attempt; returns the seconds."""
        return self._post(f"attempts/{claim['attempt']['id']}/{what}", claim["attempt"]["token"], body)[0]

    def _post(self, path: str, token: str, body: dict[str, Any]) -> tuple[float, Record | None]:
        started = time.perf_counter()
        response = self.http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
        seconds = time.perf_counter() - started
        response.raise_for_status()
        return seconds, response.json() if response.content else None
