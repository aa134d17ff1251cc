"""What a row says, by its columns or by templates."""

from typing import Any

import pytest

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data.dialogues import dialogues_of
from trainers.text.data.rows import Row


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
def test_columns_say_what_a_row_is(columns: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert turns(columns) == expected


def test_a_system_turn_may_come_first_and_an_unanswered_question_goes() -> None:
    expected_message = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "again")]
    assert turns({"messages": [{"role": r, "content": c} for r, c in expected_message]}) == expected_message[:3]


def test_templates_are_filled_from_the_columns_and_win() -> None:
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


def test_a_template_that_is_not_jinja_is_a_fault_of_the_parameters() -> None:
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
def test_a_row_that_says_nothing_is_named(columns: dict[str, Any], expected_message: str) -> None:
    with pytest.raises(TrainerError) as refused:
        turns(columns)
    assert refused.value.reason.message.startswith("a.jsonl line 1: ")
    assert expected_message in refused.value.reason.message
