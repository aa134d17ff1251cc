"""A text's denoising, replayed from its trace."""

from pathlib import Path

import pytest

from cli.commands.generate import STYLES, frame, request_parse
from cli.errors import CliError

TEXT = {
    "mask": "[M]",
    "tokens": [
        {"text": "Q: ", "step": -1},
        {"text": "a", "step": 1},
        {"text": "b", "step": 0},
        {"text": "[c]", "step": 1},
    ],
}


@pytest.mark.parametrize(
    ("step", "shown"), [(-1, "start     Q: [M][M][M]"), (0, "step   1  Q: [M]b[M]"), (1, "step   2  Q: ab[c]")]
)
def test_a_frame_has_masks_where_nothing_was_committed_yet(step: int, shown: str) -> None:
    assert frame(TEXT, step).plain == shown


def test_what_a_step_commits_stands_out() -> None:
    result = frame(TEXT, 1)
    new = [result.plain[span.start : span.end] for span in result.spans if span.style == STYLES["new"]]
    assert new == ["a", "[c]"]


def test_one_of_prompts_gaps_and_chats_is_given(tmp_path: Path) -> None:
    chat = tmp_path / "chat.yaml"
    chat.write_text("messages:\n- role: user\n  content: Hi\n")
    assert request_parse([], [], chat) == {"messages": [[{"role": "user", "content": "Hi"}]]}
    assert request_parse(["a", "b"], [], None) == {"prompts": ["a", "b"]}
    for prompts, chats in (([], None), (["a"], chat)):
        with pytest.raises(CliError, match="one of --prompt, --infill and --chat"):
            request_parse(prompts, [], chats)
