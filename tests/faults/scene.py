"""What a test of a fault says: submit, hold, see, release; and the checks of stamps and REST at the end."""

import json
from pathlib import Path
from typing import Any

from cli.http import Record
from tests.faults.host import Host
from tests.faults.platform import OVER, Platform, eventually
from tests.faults.stamps import Life, Stamp, check_never_two, check_one_result, lives_of, stamps_of

STEPS = 6
REQUEST = {"method": "image_lora", "dataset": "images", "model": "base", "resources": {"accelerators": 0}}
HELD = 4
"""Step at which a held trainer waits; the checkpoint of this step is published by then."""


class Scene:
    """Jobs and hosts of one pool."""

    def __init__(self, platform: Platform, folder: Path, pool: str) -> None:
        self.platform = platform
        self.pool = pool
        self.client = platform.client
        self._folder = folder
        self._hosts: list[Host] = []
        self._ids: dict[str, str] = {}

    def host(self, *, identity: str = "", **settings: Any) -> Host:
        """Starts a worker host; with `identity` in a folder that already holds that id."""
        place = self._folder / f"host-{len(self._hosts)}"
        if identity:
            (place / "state").mkdir(parents=True)
            (place / "state" / "worker-id").write_text(identity)
        self._hosts.append(Host(self.platform, place, self.pool, is_forked=True, **settings))
        return self._hosts[-1]

    def submit(self, name: str = "job", *, steps: int = STEPS, every: int = 2, **plan: Any) -> str:
        """A queued job whose stub trainer follows `plan`; returns its name, which is unique."""
        job = f"{self.pool}-{name}"
        self.plan(job, **plan)
        params = {"adaptor_name": job, "max_train_steps": steps, "checkpoint_every_steps": every}
        created = self.client.post("jobs", {**REQUEST, "name": job, "params": params, "pool": self.pool})
        self._ids[job] = created["id"]
        return job

    def plan(self, job: str, **plan: Any) -> None:
        (self.platform.stub_folder / "plans" / f"{job}.json").write_text(json.dumps(plan))

    def release(self, job: str) -> None:
        """A held trainer goes on."""
        (self.platform.stub_folder / "release" / job).touch()

    def held(self, job: str, step: int = HELD) -> Stamp:
        """Waits until the trainer holds at `step` and the checkpoint of it is published; the stamp that says so."""
        stamps = eventually(
            lambda: [s for s in self.stamps(job) if s.what == "hold" and s.step == step], what=f"{job} holds at {step}"
        )
        eventually(lambda: step in self.checkpoints(job), what=f"checkpoint {step} of {job} is published")
        result: Stamp = stamps[-1]
        return result

    def show(self, job: str) -> Record:
        record: Record = self.client.get(f"jobs/{self._ids[job]}")
        return record

    def ask(self, job: str, what: str) -> Record:
        record: Record = self.client.post(f"jobs/{self._ids[job]}/{what}")
        return record

    def checkpoints(self, job: str) -> list[int]:
        rows = self.client.get(f"jobs/{self._ids[job]}/artifacts")["results"]
        return [row["step"] for row in rows if row["kind"] == "checkpoint"]

    def log(self, job: str) -> str:
        return self.client.request("GET", f"jobs/{self._ids[job]}/log").text

    def over(self, job: str, within: float = 90) -> Record:
        def found() -> Record | None:
            row = self.show(job)
            return row if row["state"] in OVER else None

        record: Record = eventually(found, within, f"the end of {job}")
        return record

    def live(self, job: str) -> bool:
        return any(attempt["ended"] is None for attempt in self.show(job)["attempts"])

    def stamps(self, job: str) -> list[Stamp]:
        return stamps_of(self._stamps, job)

    def lives(self, job: str) -> list[Life]:
        return lives_of(self._stamps, job)

    def never_two(self, job: str) -> list[Life]:
        return check_never_two(self._stamps, job)

    def one_result(self, job: str, outcomes: list[str]) -> list[Life]:
        """The job succeeds after attempts with `outcomes`; one trainer came to its end, never two were alive."""
        self.one_adaptor(job, outcomes)
        return check_one_result(self._stamps, job)

    def one_adaptor(self, job: str, outcomes: list[str]) -> Record:
        """The job succeeds after attempts with `outcomes`, and one adaptor was made, by the last of them."""
        record = self.over(job)
        assert record["state"] == "succeeded", record["reason"]
        assert [attempt["outcome"] for attempt in record["attempts"]] == outcomes
        assert [row["version"] for row in self.client.pages("adaptors") if row["name"] == job] == [1]
        return record

    @property
    def _stamps(self) -> Path:
        return self.platform.stub_folder / "stamps"

    def close(self) -> None:
        for host in self._hosts:
            host.close()
            print(f"== {host.folder.name}\n{host.log.read_text()[-4000:]}")
        self.client.http.close()
