"""What a person who runs a trainer by hand is told."""

import json
from pathlib import Path

import pytest

from trainers.run import main

SPEC = {
    "name": "job",
    "method": "image_lora",
    "params": {"adaptor_name": "tiny"},
    "inputs": {role: {"name": role, "key": role, "sha256": "0" * 64} for role in ("dataset", "model")},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    (tmp_path / "in" / "dataset").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.json", "in", "out", "cache"), "spec: expected a JSON file, but {0}/none.json is not there. "),
        (("in", "in", "out", "cache"), "spec: expected a JSON file, but {0}/in is a folder. "),
        (("spec.json", "none", "out", "cache"), "in: expected a folder, but {0}/none is not there. "),
        (("spec.json", "file", "out", "cache"), "in: expected a folder, but {0}/file is a file. "),
        (("spec.json", "in", "file", "c"), "out: expected a folder, or a name for a new one, but {0}/file is a file."),
        (
            ("spec.json", "in", "out", "cache"),
            "in: {0}/spec.json asks for the folders model, which are not in {0}/in. ",
        ),
    ],
)
def test_wrong_arguments_give_a_sentence(
    arguments: tuple[str, ...], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(folder / name) for name in arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(sentence.format(folder)) and len(error.splitlines()) == 1
    assert not (folder / "out").exists()
