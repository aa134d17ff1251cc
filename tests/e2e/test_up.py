"""`anneal up` as a user starts and stops it."""

import subprocess
import sys

from tests.e2e.conftest import Embedded, FirstStart


def test_a_first_start_shows_its_secrets_and_stops_cleanly(first_start: FirstStart) -> None:
    assert first_start.ready["token"].startswith("ant_")
    assert first_start.ready["password"]
    assert first_start.exit_code == 0
    assert first_start.left == []
    logs = {path.stem for path in (first_start.root / "logs").iterdir()}
    assert logs == {"api", "broker", "dispatcher", "setup", "worker"}


def test_a_second_start_comes_back_as_it_was_and_shows_no_secret(first_start: FirstStart, embedded: Embedded) -> None:
    assert embedded.ready == {"url": first_start.ready["url"], "dir": str(first_start.root)}


def test_a_second_platform_in_the_same_folder_is_refused_with_a_sentence(embedded: Embedded) -> None:
    again = [sys.executable, "-m", "cli", "up", "--dir", str(embedded.root)]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"another `anneal up` (process {embedded.pid}) already runs in {embedded.root}" in done.stderr
