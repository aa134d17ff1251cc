"""STYLE rules 31 and 32: values have standard names, and one thing has one word."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("api", "worker", "trainers", "storage", "cli", "foundation", "formats", "bench", "docs", "examples", "tests")
VARIABLES = {
    *("found", "said", "told", "wanted", "given", "asked", "seen"),
    *("made", "known", "own", "mine", "theirs", "kept", "whole"),
}
"""Participles that say nothing of what a value is: use result, message, requested, expected, existing, path, count."""
WORDS = {"picture", "said", "deed", "tongue", "desk", "site", "kept"}
"""Never part of an identifier: say image, message, action, tokenizer, cache, context, stored."""
OF_DJANGO = {("api/urls.py", "site")} | {
    (f"api/panel/{name}", word)
    for name, word in (("accounts.py", "site"), ("admin.py", "site"), ("actions.py", "admin_site"))
}
"""What Django's admin calls its own."""


def names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, identifier, whether it is a variable) of everything that the code names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, True
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, True
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, True
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name, True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name, False


def words(name: str) -> set[str]:
    """Of snake_case and CamelCase, in lower case, plurals as singulars too."""
    parts = {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    return parts | {part.removesuffix("s") for part in parts}


def offences(source: str) -> list[tuple[int, str]]:
    return [
        (line, name)
        for line, name, is_variable in names(ast.parse(source))
        if (is_variable and name.strip("_") in VARIABLES) or words(name) & WORDS
    ]


def test_no_value_has_a_name_that_says_nothing() -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "migrations" not in path.parts
        for line, name in offences(path.read_text(encoding="utf-8"))
        if (path.relative_to(ROOT).as_posix(), name) not in OF_DJANGO
    ]
    assert not problems, "\n".join([f"{len(problems)} names that STYLE 31 and 32 ban:", *problems])


def test_the_check_finds_each_form_of_a_banned_name() -> None:
    source = """
def read(asked, *, _wanted=None):
    found: list = []
    for seen in asked:
        with open(seen) as told:
            self.kept = told
    if known := found:
        return [made for made in known]
    try:
        pass
    except ValueError as own:
        raise
class PictureDesk: ...
def site_pictures(): ...
def test_a_kept_value(): ...
"""
    expected = {"asked", "_wanted", "found", "seen", "told", "kept", "known", "made", "own"}
    expected |= {"PictureDesk", "site_pictures", "test_a_kept_value"}
    assert {name for _, name in offences(source)} == expected
    assert not offences("def website(opposite, unkept):\n    result = requisite\n")
