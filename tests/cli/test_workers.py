import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.cli.small_server import Answer, serving

WORKER = {
    "host": "gpu1",
    "pools": ["default"],
    "slots": 2,
    "free_slots": 1,
    "accelerators": [{"index": 0}],
    "labels": {},
    "last_seen": "2026-01-01T00:00:00Z",
    "draining": False,
    "gone": False,
    "quarantined_at": None,
    "quarantine": None,
}
SICK = {"code": "disk_full", "message": "The worker's disk is full.", "hint": "Free space on the worker."}
WORKERS = [
    {**WORKER, "id": "aaaa1111-0"},
    {**WORKER, "id": "bbbb2222-0"},
    {**WORKER, "id": "cccc", "host": "gpu2", "quarantined_at": "2026-01-01T00:00:00Z", "quarantine": SICK},
]


def anneal(*command: str, home: Path, requests: list[str] | None = None) -> Result:
    def handle(path: str, _: dict[str, str]) -> Answer:
        if path.endswith(("/drain", "/release")) and requests is not None:
            requests.append(path)
            return 200, {}, json.dumps(WORKERS[0]).encode()
        return 200, {}, json.dumps({"results": WORKERS, "next": None}).encode()

    with serving(handle) as url:
        env = {"XDG_CONFIG_HOME": str(home), "ANNEAL_URL": url, "ANNEAL_TOKEN": "ant_x", "COLUMNS": "200"}
        return CliRunner().invoke(app, command, env=env)


def test_the_list_says_what_is_free(tmp_path: Path) -> None:
    done = anneal("worker", "list", home=tmp_path)
    assert done.exit_code == 0
    assert "1 of 2" in done.stdout


@pytest.mark.parametrize("expected", ["aaaa", "aaaa1111-0"])
def test_a_worker_is_drained_by_the_start_of_its_id(expected: str, tmp_path: Path) -> None:
    requests: list[str] = []
    assert anneal("worker", "drain", expected, home=tmp_path, requests=requests).exit_code == 0
    assert requests == ["/api/v1/workers/aaaa1111-0/drain"]


def test_a_worker_is_named_by_its_host(tmp_path: Path) -> None:
    assert json.loads(anneal("worker", "show", "gpu2", "--json", home=tmp_path).stdout)["id"] == "cccc"


@pytest.mark.parametrize(("expected", "listed"), [("gpu1", "bbbb2222 (gpu1)"), ("gpu9", "cccc (gpu2)")])
def test_what_is_not_one_worker_is_refused_with_the_choice(expected: str, listed: str, tmp_path: Path) -> None:
    requests: list[str] = []
    done = anneal("worker", "drain", expected, home=tmp_path, requests=requests)
    assert (done.exit_code, requests) == (1, [])
    assert listed in done.stderr


def test_a_quarantine_is_shown_with_its_reason_and_hint_and_ended_by_release(tmp_path: Path) -> None:
    assert "quarantined" in anneal("worker", "list", home=tmp_path).stdout
    assert "disk_full: The worker's disk is full. Free space" in anneal("worker", "show", "gpu2", home=tmp_path).stdout
    requests: list[str] = []
    assert anneal("worker", "release", "gpu2", home=tmp_path, requests=requests).exit_code == 0
    assert requests == ["/api/v1/workers/cccc/release"]
