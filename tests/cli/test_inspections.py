"""What an inspection looks like on the terminal."""

import io
from typing import cast

import pytest
import typer
from rich.console import Console

from cli.commands import inspections
from cli.commands.inspections import STYLES, report_print, tokens_text
from cli.errors import Exit
from cli.http import Client

TOKENS = [
    {"text": "What is ", "role": "prompt"},
    {"text": "it?", "role": "prompt"},
    {"text": "A ", "role": "response"},
    {"text": "[cat]", "role": "response", "masked": True},
    {"text": "<end>", "role": "special", "masked": False},
]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    reported = io.StringIO()
    console = Console(file=reported, width=120)
    for name in ("out", "err"):
        monkeypatch.setattr(inspections, name, console)
    monkeypatch.setattr("cli.output.out", console)
    return reported


def test_each_token_has_the_colour_of_its_part() -> None:
    text = tokens_text(TOKENS)
    assert text.plain == "What is it?A [cat]<end>"
    styles = [(text.plain[span.start : span.end], span.style) for span in text.spans]
    parts = ("prompt", "prompt", "response", "masked", "special")
    assert styles == [(token["text"], STYLES[part]) for token, part in zip(TOKENS, parts, strict=True)]


def test_an_inspection_of_rows_shows_tokens_and_faults(printed: io.StringIO) -> None:
    report_print({"rows": 3, "faults": ["a.jsonl line 2: no response"], "samples": [{"tokens": TOKENS}]}, "12345678")
    assert "fault: a.jsonl line 2: no response" in printed.getvalue()
    assert "{prompt}" in printed.getvalue() and "[masked]" in printed.getvalue()
    assert "{What is it?}(A )[[cat]]<<end>>" in printed.getvalue(), "a pipe keeps the parts; brackets are no markup"
    assert "row 1  5 tokens" in printed.getvalue()


def test_an_inspection_of_images_says_what_becomes_of_each_file(printed: io.StringIO) -> None:
    files = [{"where": "a.png", "changes": ["turned by its EXIF", "cut"]}, {"where": "b.png", "refused": "too small"}]
    samples = [{"path": "samples/sample-00.png", "file": "a.png", "text": "zqx, a cat", "resized": [64, 96]}]
    report_print({"shapes": {"64x64": 2}, "files": files, "samples": samples, "steps_per_epoch": 2}, "12345678")
    lines = printed.getvalue()
    for message in ("turned by its EXIF; cut", "too small", "zqx, a cat", "[64, 96]", '{"64x64": 2}', "12345678"):
        assert message in lines


@pytest.mark.parametrize(("refused", "code"), [("", Exit.DONE), ("training_method='bert' trains bert", Exit.FAILED)])
def test_a_dataset_that_a_training_would_refuse_ends_the_command_with_1(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch, refused: str, code: Exit
) -> None:
    monkeypatch.setattr(inspections, "wait", lambda _client, job, **_: job)
    monkeypatch.setattr(inspections, "report_read", lambda *_: {"refused": refused, "rows": 3, "samples": []})
    ended = Exit.DONE
    try:
        inspections.report_show(cast(Client, None), {"id": "12345678"}, as_json=False)
    except typer.Exit as exit_:
        ended = Exit(exit_.exit_code)
    assert ended is code and refused in printed.getvalue()
