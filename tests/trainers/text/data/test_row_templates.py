"""Templates that people write: no bound of time, memory, output or nesting can be passed, and each has its sentence."""

import pytest

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data import row_templates
from trainers.text.data.row_templates import templates_render

ROW = {"a": "x" * 10, "n": 3, "list": [1, 2]}


def rendered(template: str, *rows: dict[str, object]) -> list[list[str] | str]:
    return templates_render({"input_template": template}, rows or (ROW,))


def refusal(template: str) -> str:
    with pytest.raises(TrainerError) as caught:
        rendered(template)
    assert caught.value.reason.code == ReasonCode.BAD_PARAMETERS
    return caught.value.reason.message


def test_usual_templates_are_rendered_for_each_row() -> None:
    template = "{% for i in range(n) %}{{ i }}{% endfor %}{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(a | upper) }}\n"
    assert rendered(template, {"n": 2, "a": "b"}, {"n": 1, "a": "é\ud83d"}) == [["01<B>\n"], ["0<É\ud83d>\n"]]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}x", "loops too often"),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ range(10 ** 12) | list }}", "range() has 1000000000000 numbers; expected at most 10000"),
        ("{{ 'a' * 10 ** 12 }}", "needs more than 1073741824 bytes of memory"),
        ("{{ '%10000000000d' % 1 }}", "needs more than 1073741824 bytes of memory"),
        ("{{ 'a'.zfill(10 ** 12) }}", "needs more than 1073741824 bytes of memory"),
        ("{{ 'a' * 2000000 }}", "the text is longer than 1000000 characters"),
        ("{% for i in range(1000) %}{{ a * 1000 }}{% endfor %}", "the text is longer than 1000000 characters"),
        ("{{ lipsum(n=10 ** 9) }}", "'lipsum' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    ],
)
def test_a_template_without_bounds_is_refused_for_its_row(template: str, fault: str) -> None:
    (answer,) = rendered(template)
    assert isinstance(answer, str) and answer.startswith("input_template: ") and fault in answer


def test_an_endless_template_is_ended_by_the_cpu_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_templates, "CPU_SECONDS", 1)
    assert refusal("{{ 9 ** (9 ** 9) }}") == (
        "input_template took more than 1 seconds of processor time at row 1; write a shorter template, or columns that "
        "need none"
    )


@pytest.mark.parametrize(
    "template", ["{{ a", "{% for %}", "{{ " + "(" * 5000 + ")" * 5000 + " }}", "{% include 'x' %}{{"]
)
def test_invalid_jinja_is_refused(template: str) -> None:
    assert refusal(template).startswith("input_template is not a Jinja template: ")


def test_a_template_is_not_evaluated_at_compile_time() -> None:
    """jinja folds constants at compile time unless told otherwise."""
    assert rendered("{% if n == 0 %}{{ 'a' * 10 ** 12 }}{% endif %}y") == [["y"]]


def test_the_process_does_not_get_the_secrets_of_its_parent() -> None:
    assert not any("TOKEN" in name or "ANNEAL" in name for name in row_templates.INHERITED)
