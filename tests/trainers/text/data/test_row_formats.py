"""Rows of hostile files: the check at upload and the trainer's reader agree on what is refused, and say where."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.catalog.checking.dataset import check
from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from formats.datasets.rows import MAX_DEPTH, csv_separator, json_value, value_fault
from trainers.contract.errors import TrainerError
from trainers.text.data.rows import rows_read

GOOD = b'{"question": "1?", "answer": "1"}\n'


def work_on(folder: Path, name: str, content: bytes) -> Work:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    (folder / "in" / name).write_bytes(content)
    return Work(folder / "in", folder / "out", [{"path": name, "size": len(content), "sha256": "0" * 64}])


LINES = [
    (b'{"question": "\\ud800", "answer": "1"}', "surrogate"),
    (b'{"question": "a\\udfffb", "answer": "1"}', "surrogate"),
    (b'{"question": "a\\u0000b", "answer": "1"}', "NUL"),
    (b'{"question": "1?", "answer": "1", "\\ud83d": "x"}', "surrogate"),
    (b'{"question": "1?", "answer": "1", "meta": {"deep": ["\\udc00"]}}', "surrogate"),
    (b'{"question": "1?", "answer": "1", "answer": "2"}', "duplicate key 'answer'"),
    (b'{"question": "1?", "answer": "1", "meta": {"a": 1, "a": 2}}', "duplicate key 'a'"),
]


@pytest.mark.parametrize(("line", "message"), LINES)
def test_a_faulty_line_is_named_by_the_check_and_by_the_trainer(tmp_path: Path, line: bytes, message: str) -> None:
    work = work_on(tmp_path, "a.jsonl", GOOD + line + b"\n" + GOOD)
    with pytest.raises(TrainerError) as refusal:
        rows_read(tmp_path / "in")
    assert "a.jsonl line 2" in refusal.value.reason.message
    assert message in refusal.value.reason.message
    details = check(work)
    assert (details["num_rows"], details["num_skipped"]) == (2, 1)
    assert [(notice["line"], message in notice["message"]) for notice in work.notices.listed] == [(2, True)]
    assert len(rows_read(work.folder)) == 2


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    work = work_on(tmp_path, "a.jsonl", b'{"question": "\\ud83d\\ude00", "answer": "1"}\n')
    assert check(work)["num_rows"] == 1
    assert rows_read(tmp_path / "in")[0].columns["question"] == "\N{GRINNING FACE}"


FILES = [
    ("a.csv", b"question,answer\na\0b,1\n", "NUL"),
    ("a.csv", b"ques\0tion,answer\na,1\n", "NUL"),
    ("a.csv", b"question;answer\na;1;2\nb;2\n", "semicolons"),
    ("a.csv", b'"question";"answer"\n"a";"1";"2"\n', "semicolons"),
    ("a.txt", b"one\0two\n", "NUL"),
    ("a.json", b'[{"question": "\\ud800", "answer": "1"}]', "surrogate"),
    ("a.json", b'[{"question": "a", "question": "b"}]', "duplicate key 'question'"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_a_faulty_file_is_refused_by_both(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    work = work_on(tmp_path, name, content)
    with pytest.raises(Refused, match=message):
        check(work)
    with pytest.raises(TrainerError, match=message):
        rows_read(tmp_path / "in")


SEPARATED = [
    (b"question;answer\nwhat, where?;1\n2?;2\n", "semicolons"),
    (b'"question";"answer"\n"a;b";"1"\n', "semicolons"),
    (b"question\tanswer\na\t1\n", "tabs"),
    (b"question|answer\na|1\n", "vertical bars"),
]


@pytest.mark.parametrize(("content", "name"), SEPARATED)
def test_a_csv_with_another_separator_is_read(tmp_path: Path, content: bytes, name: str) -> None:
    work = work_on(tmp_path, "a.csv", content)
    details = check(work)
    assert [column["name"] for column in details["columns"]] == ["question", "answer"]
    assert [notice["message"] for notice in work.notices.listed] == [f"a.csv is read with {name} between its cells"]
    assert [*rows_read(tmp_path / "in")[0].columns] == ["question", "answer"]


def test_commas_take_precedence_and_one_column_remains_one() -> None:
    assert csv_separator("a,b;c\n1,2;3\n") == ","
    assert csv_separator("text\nfirst; second\n") == ","
    assert csv_separator("") == ","
    with pytest.raises(ValueError, match="semicolons or tabs"):
        csv_separator("a;b\tc\n1;2\t3\n")


def test_keys_that_only_some_rows_have_are_named_with_their_counts(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "b"}] * 7 + [{"question": "a", "answer": "b", "note": "c"}] * 2
    work = work_on(tmp_path, "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    check(work)
    (notice,) = work.notices.listed
    assert notice["code"] == "keys_in_some_rows_only"
    assert "'note' in 2 of 9 rows" in notice["message"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text("abc", min_size=1), item, max_size=3),
        max_leaves=8,
    )
)
def test_json_round_trips(value: object) -> None:
    assert json_value(json.dumps(value)) == value
    assert json_value(json.dumps(value, ensure_ascii=False)) == value
    assert not value_fault(value)


def test_depth_is_bounded() -> None:
    assert json_value("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert "levels" in str(json_value("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2)))
    assert "levels" in str(json_value("[" * 100_000))
