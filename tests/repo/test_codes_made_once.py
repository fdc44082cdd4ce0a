"""Each word of ERRORS.md is given to an error or warning in one place, so that texts agree.

The SDK and the command line are counted apart from the services: they refuse with `ClientError`,
which needs nothing but the API, and may use the word that the server would have answered with.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repo.error_codes import SERVICES, table, uses

PACKAGE = SERVICES / "saeserve"
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if not file.is_relative_to(PACKAGE / "v1")]
CLIENT = {file for room in ("client", "cli") for file in (PACKAGE / room).rglob("*.py")}
SIDES = {"services": [each for each in FILES if each not in CLIENT], "client": sorted(CLIENT)}
NAMES = {"code", "reason", "CODE"}
WORDS = set(table(uses()))


def given(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions by which the source gives words: arguments, defaults, fields, constants."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="labels")):
                pass  # of a metric, which counts errors that were made elsewhere
            case ast.Call():
                yield from node.args
                yield from (each.value for each in node.keywords if each.arg in NAMES)
            case ast.FunctionDef():
                yield from _defaults(node.args)
            case ast.ClassDef():
                yield from _assigned(node.body, NAMES)
            case ast.Yield(value=ast.Tuple(elts=[first, *_])):
                yield first
            case _:
                pass
    yield from _assigned(tree.body)


def _assigned(body: list[ast.stmt], names: set[str] | None = None) -> Iterator[ast.expr]:
    for each in body:
        if isinstance(each, ast.Assign) and (
            names is None or ast.unparse(each.targets[0]) in names
        ):
            yield each.value


def _defaults(arguments: ast.arguments) -> Iterator[ast.expr]:
    positional = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    pairs = [*zip(positional, arguments.defaults, strict=True)]
    pairs += [
        (argument, value)
        for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    ]
    yield from (value for argument, value in pairs if argument.arg in NAMES)


def literals(value: ast.expr) -> Iterator[str]:
    """The string that an expression is, or those that it chooses from."""
    if isinstance(value, ast.IfExp):
        yield from literals(value.body)
        yield from literals(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


def places(files: dict[Path, str]) -> dict[str, list[str]]:
    """For each word, path:line of every place that gives it."""
    found: dict[str, list[str]] = defaultdict(list)
    for file, source in files.items():
        for value in given(ast.parse(source)):
            for word in WORDS.intersection(literals(value)):
                found[word].append(f"{file}:{value.lineno}")
    return found


@pytest.mark.parametrize("side", SIDES)
def test_each_word_is_given_in_one_place(side: str) -> None:
    files = {file.relative_to(SERVICES): file.read_text() for file in SIDES[side]}
    found = places(files)
    assert len(found) > 30, "the places are no longer found"
    repeated = {word: where for word, where in found.items() if len(where) > 1}
    assert not repeated, "make it in one function:\n" + "\n".join(
        f"{word}: {', '.join(where)}" for word, where in sorted(repeated.items())
    )


@pytest.mark.parametrize(
    "again",
    [
        'raise InvalidInput("x", code="BAD_PATH")',
        'raise wrong("x", "BAD_PATH")',
        'def wrong(text, code="BAD_PATH"): ...',
        'def wrong(text, *, reason="BAD_PATH"): ...',
        'class Bad(ServiceError):\n    code = "BAD_PATH"',
        'CODE = "BAD_PATH"',
        'error = Bad(code="BAD_PATH" if x else "BAD_NAME")',
        'def warnings():\n    yield "BAD_PATH", "x"',
    ],
)
def test_a_second_place_is_seen(again: str) -> None:
    once = 'def bad_path(): return InvalidInput("x", code="BAD_PATH")'
    assert len(places({Path("a.py"): once, Path("b.py"): again})["BAD_PATH"]) == 2


def test_what_only_looks_at_a_word_is_no_second_place() -> None:
    looks = (
        'if error.code == "BAD_PATH" or error.code in ("BAD_PATH",):\n    errors.labels("BAD_PATH")'
    )
    assert not places({Path("a.py"): looks})
