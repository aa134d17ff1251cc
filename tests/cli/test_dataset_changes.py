"""Captions from the command line and from files."""

from pathlib import Path

import pytest

from cli.commands.datasets import caption_parse, captions_read
from cli.errors import CliError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", 'file_name,text\na.png,"one, two"\n'),
        ("c.jsonl", '{"file_name": "a.png", "text": "one, two"}\n\n'),
        ("c.csv", 'image,caption\na.png,"one, two"\n'),
    ],
)
def test_captions_come_from_a_table(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert captions_read(tmp_path / name) == {"a.png": "one, two"}


@pytest.mark.parametrize("content", ["file,colour\na.png,red\n", '"'])
def test_a_table_without_captions_is_refused_with_its_columns(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(CliError, match=r"c\.csv") as caught:
        captions_read(tmp_path / "c.csv")
    assert caught.value.exit_code == 2


def test_a_caption_may_have_an_equals_sign() -> None:
    assert caption_parse("a.png=x = 5") == ("a.png", "x = 5")
    with pytest.raises(CliError, match="file=caption"):
        caption_parse("a.png")
