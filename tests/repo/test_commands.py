"""Commands that the pages show are commands that exist; `test_readme` runs them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, cast

import pytest
import typer.core
import typer.main
from tests.repo.pages import commands, existing, modules, targets
from tests.repo.test_layout import ROOT

from saeserve.cli.__main__ import app

EVERY_PAGE = pytest.mark.parametrize("page", existing(), ids=lambda page: page.name)


def spelled_out(words: list[str]) -> list[list[str]]:
    """`jobs ls|show` as two commands; what stands in brackets is given."""
    given = " ".join(words).replace("[", "").replace("]", "").split()
    if "|" not in given[-1]:
        return [given]
    return [[*given[:-1], last] for last in given[-1].split("|")]


def problem(words: list[str]) -> str:
    """Why the command line cannot be parsed; empty where it can. A mere mention of a command's
    name may leave out what it requires."""
    # Typer's own copy of click has no public names, so its objects are not typed here.
    command: Any = typer.main.get_command(app)
    name, rest, context = "saeserve", list(words), cast("Any", None)
    try:
        while isinstance(command, typer.core.TyperGroup) and rest:
            context = cast("Any", command).make_context(name, rest, parent=context)
            rest = cast("list[str]", vars(context)["_protected_args"] + context.args)
            name, command, rest = cast("Any", command).resolve_command(context, rest)
        command.make_context(name, rest, parent=context, resilient_parsing=not rest)
    except Exception as error:
        return f"{words}: {error}"
    return ""


@EVERY_PAGE
def test_commands_parse(page: Path) -> None:
    named = [each for words in commands(page) for each in spelled_out(words)]
    assert [problem(words) for words in named if problem(words)] == []


@EVERY_PAGE
def test_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets(page) <= known


@EVERY_PAGE
def test_modules_exist(page: Path) -> None:
    assert [name for name in modules(page) if importlib.util.find_spec(name) is None] == []


def test_the_readme_has_commands() -> None:
    assert len(commands(ROOT / "README.md")) > 20


def test_a_wrong_option_is_noticed() -> None:
    assert "--no-such" in problem(["models", "ls", "--no-such"])
    assert "modles" in problem(["modles", "ls"])
