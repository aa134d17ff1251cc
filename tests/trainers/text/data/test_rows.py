"""Rows are read from every kind of file, and a faulty one is refused with its place and reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow.parquet import write_table

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data.rows import Row, dialogues_of, rows_read

ROWS = [{"prompt": "a", "completion": 'b, "quoted"\nline'}, {"prompt": "ü", "completion": "d"}]


def write(folder: Path, ending: str) -> None:
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif ending == ".csv":
        path.write_text('﻿prompt,completion\na,"b, ""quoted""\nline"\nü,d\n', encoding="utf-8")
    elif ending == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_the_same_rows_come_from_every_kind_of_file(ending: str, tmp_path: Path) -> None:
    write(tmp_path, ending)
    assert [row.columns for row in rows_read(tmp_path)] == ROWS


def test_a_text_file_is_its_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    result = rows_read(tmp_path)
    assert [(row.where, row.columns["text"]) for row in result] == [
        ("a.txt line 1", "one\ntwo"),
        ("a.txt line 5", "three"),
    ]


def test_a_text_file_beside_rows_is_a_note(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl")
    (tmp_path / "LICENSE.txt").write_text("Free.")
    assert [row.columns for row in rows_read(tmp_path)] == ROWS


def test_files_are_read_in_the_order_of_their_names_below_folders_too(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/c.jsonl", "a.jsonl", "d.md"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert [row.columns["text"] for row in rows_read(tmp_path)] == ["a.jsonl", "b/c.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "expected_message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n[1]', "a.jsonl line 2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n[1]', "a.jsonl line 2: expected an object, got list"),
        ("a.jsonl", '{"text": NaN}', "NaN is not JSON"),
        ("a.jsonl", '[{"text": "x"}]', "this is a JSON array"),
        ("a.json", '{"text": "x"}', "expected an array of objects, got dict"),
        ("a.json", "[" * 5000, "at most 32 levels"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv line 2: expected 2 cells, got 3"),
        ("a.csv", "a,a\n1,2\n", "a different name for each column"),
        ("a.parquet", "no", "cannot be read as Parquet"),
        ("a.jsonl", "", "hold none"),
        ("a.png", "", "found none of them"),
    ],
)
def test_what_is_faulty_is_named(name: str, content: str, expected_message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TrainerError) as refused:
        rows_read(tmp_path)
    assert expected_message in refused.value.reason.message


@pytest.mark.parametrize(
    ("content", "expected_message"), [(b"\xff\xfea\0", "UTF-16"), (b'{"text": "\xe9"}', "byte 10 is 0xe9")]
)
def test_other_encodings_are_named(content: bytes, expected_message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(TrainerError, match=expected_message):
        rows_read(tmp_path)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(["1"] * 9))
    with pytest.raises(TrainerError, match=r"a.jsonl line 5: .* and 4 more"):
        rows_read(tmp_path)


def turns(columns: dict[str, Any], **templates: str) -> list[tuple[str, str]]:
    (dialogue,) = dialogues_of([Row("a.jsonl line 1", columns)], **templates)
    return [tuple(turn) for turn in dialogue.turns]  # type: ignore[misc]


ASKED = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ASKED),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ASKED),
        ({"instruction": "q", "input": "", "output": "a"}, ASKED),
        ({"instruction": "q", "input": "x", "output": "a"}, [("user", "q\n\nx"), ("assistant", "a")]),
        ({"instruction": "q", "output": "a"}, ASKED),
        ({"prompt": "q", "completion": "a", "id": 3}, ASKED),
        ({"question": "q", "answer": "a"}, ASKED),
        ({"text": "t"}, [("", "t")]),
    ],
)
def test_columns_decide_how_a_row_is_read(columns: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert turns(columns) == expected


def test_a_system_turn_may_come_first_and_an_unanswered_question_is_dropped() -> None:
    expected_message = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "again")]
    assert turns({"messages": [{"role": r, "content": c} for r, c in expected_message]}) == expected_message[:3]


def test_templates_take_precedence_over_columns() -> None:
    columns = {"text": "unused", "english": "dog", "german": ["der", "Hund"]}
    result = turns(columns, input_template="Say {{ english | upper }}", output_template="{{ german | join(' ') }}")
    assert result == [("user", "Say DOG"), ("assistant", "der Hund")]


def test_a_variable_that_a_row_lacks_is_named_with_the_row() -> None:
    with pytest.raises(
        TrainerError, match=r"a.jsonl line 1: input_template: 'engish' is undefined; the row has english"
    ):
        turns({"english": "dog"}, input_template="{{ engish }}", output_template="x")


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ english.__class__ }}"])
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    with pytest.raises(TrainerError, match=r"unsafe|undefined"):
        turns({"english": "dog"}, input_template=template, output_template="x")


def test_a_template_that_is_not_jinja_is_bad_parameters() -> None:
    with pytest.raises(TrainerError) as refused:
        turns({"a": "b"}, input_template="{{ a", output_template="x")
    assert refused.value.reason.code == ReasonCode.BAD_PARAMETERS


@pytest.mark.parametrize(
    ("columns", "expected_message"),
    [
        ({"messages": []}, "the chat is empty"),
        ({"messages": [{"role": "user", "content": "q"}] * 2}, "turn 2: expected assistant, got user"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "turn 1: expected user, got assistant"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "turn 1: expected the role user, assistant or system"),
        ({"messages": [{"role": "user", "content": " "}]}, "turn 1: expected text under content"),
        ({"messages": [{"role": "user", "content": "q"}]}, "expected an answer"),
        ({"prompt": "q", "completion": None}, "expected text under 'completion', got None"),
        ({"prompt": "q", "completion": ""}, "expected text under 'completion', got ''"),
        ({"some": "thing"}, "expected the columns"),
    ],
)
def test_an_empty_row_is_named(columns: dict[str, Any], expected_message: str) -> None:
    with pytest.raises(TrainerError) as refused:
        turns(columns)
    assert refused.value.reason.message.startswith("a.jsonl line 1: ")
    assert expected_message in refused.value.reason.message
