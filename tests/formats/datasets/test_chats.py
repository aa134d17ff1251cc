"""Which columns are read without templates."""

import pytest

from formats.datasets.chats import columns_read

COLUMNS = [
    (["messages", "prompt", "completion"], ("messages",)),
    (["conversation"], ("conversation",)),
    (["instruction", "input", "output"], ("instruction", "input", "output")),
    (["instruction", "output"], ("instruction", "input", "output")),
    (["question", "answer", "text"], ("question", "answer")),
    (["input", "output"], ("input", "output")),
    (["text", "note"], ("text",)),
    (["instruction"], ()),
    ([], ()),
]


@pytest.mark.parametrize(("names", "expected"), COLUMNS)
def test_the_first_existing_set_of_columns_is_read(names: list[str], expected: tuple[str, ...]) -> None:
    assert columns_read(names) == expected
