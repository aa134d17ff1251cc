"""The control file: one rising sequence, whatever the API and the agent ask."""

import json
from pathlib import Path
from typing import Any

from worker.attempt.control import ControlFile


def event(seq: int) -> dict[str, Any]:
    return {"seq": 1, "data": {"kind": "control", "seq": seq, "command": "save_now"}}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_the_seq_rises_over_attempts_so_that_a_resumed_trainer_obeys(tmp_path: Path) -> None:
    first, second = ControlFile(tmp_path / "first", 1), ControlFile(tmp_path / "second", 2)
    first.request("save_now", 5)
    first.stop()
    second.request("save_now", 1)
    assert read(tmp_path / "second")["seq"] > read(tmp_path / "first")["seq"]


def test_the_answer_carries_the_seq_of_the_api(tmp_path: Path) -> None:
    control = ControlFile(tmp_path / "control", 3)
    control.request("save_now", 5)
    assert control.with_api_seq(event(read(tmp_path / "control")["seq"]))["data"]["seq"] == 5


def test_the_same_command_again_is_written_once_and_nothing_overtakes_a_stop(tmp_path: Path) -> None:
    control = ControlFile(tmp_path / "control", 1)
    control.request("save_now", 5)
    written = read(tmp_path / "control")
    control.request("save_now", 5)
    assert read(tmp_path / "control") == written
    control.stop()
    control.request("sample_now", 6)
    assert read(tmp_path / "control")["command"] == "stop"
