from docs.commands import PAGE, commands_page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == commands_page(), "run `make docs` and commit docs/commands.md"


def test_every_command_says_what_it_does() -> None:
    assert not [row for row in commands_page().splitlines() if row.endswith("|  |")]
