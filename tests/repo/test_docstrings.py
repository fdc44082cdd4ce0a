"""No docstring only repeats what it documents: rule 2 of CONTRIBUTING, "Language"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest

import pytest
from tests.repo.test_layout import GENERATED, PACKAGE, ROOT

_FILLERS = set(
    re.findall(
        r"\w+",
        "a all an and any are as at be by current for from get given has have held how in into is "
        "it its make number of on one or out return returns run self that the their them there "
        "these they this those to up value was were what when where whether which who whose with",
    )
)
"""Words that say nothing by themselves."""
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "ions", "ion", "ers", "er", "ors")
_SHORT_ENDINGS = ("or", "ed", "es", "s", "e", "y")

Documented = tuple[ast.AST, set[str], str]
"""A class, function or attribute; the words of its signature; its docstring."""


def stem(word: str) -> str:
    for ending in (*_ENDINGS, *_SHORT_ENDINGS):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def words(text: str) -> set[str]:
    """The stems of a text's words, those of names in snake_case and CamelCase included."""
    text = text.replace("'s ", " ")
    found = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", text)
    return {stem(word.lower()) for word in found if word.lower() not in _FILLERS}


def signature(node: ast.AST, owner: str) -> str:
    """The names of a definition: its own, its class's, its arguments', those of its types."""
    match node:
        case ast.ClassDef():
            return node.name
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            parts = [node.args, node.returns]
        case ast.AnnAssign():
            parts = [node.target, node.annotation]
        case ast.Assign():
            parts = node.targets
        case _:
            return ""
    return " ".join([owner, getattr(node, "name", ""), *names(parts)])


def names(parts: Iterable[ast.AST | None]) -> Iterator[str]:
    for node in (each for part in parts if part is not None for each in ast.walk(part)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case _:
                pass


def docstring(node: ast.AST, after: ast.AST | None) -> str | None:
    """What documents a class or function, or what stands after an attribute."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return ast.get_docstring(node)
    match after:
        case ast.Expr(value=ast.Constant(value=str(text))) if isinstance(
            node, (ast.Assign, ast.AnnAssign)
        ):
            return text
        case _:
            return None


def documented(parent: ast.AST, owner: str = "") -> Iterator[Documented]:
    nodes = list(ast.iter_child_nodes(parent))
    for node, after in zip_longest(nodes, nodes[1:]):
        text = docstring(node, after)
        if text is not None:
            yield node, words(signature(node, owner)), text
        yield from documented(node, node.name if isinstance(node, ast.ClassDef) else owner)


def repeats(known: set[str], text: str) -> bool:
    """Whether a docstring has no word that the signature lacks, and no formula."""
    return not re.search(r"[=<>+*/·\[\]]", text) and words(text) <= known


def found_in(source: str) -> list[tuple[int, str]]:
    return [
        (getattr(node, "lineno", 0), text)
        for node, known, text in documented(ast.parse(source))
        if repeats(known, text)
    ]


def test_no_docstring_repeats_its_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if GENERATED not in path.parents
        for line, text in found_in(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'class FilePayload:\n    """A file as payload."""',
        'def set_store(store_id: str) -> None:\n    """Set the store\'s id."""',
        'class Rows:\n    def count(self) -> int:\n        """The number of rows."""',
        'class A:\n    lr: float = 0.1\n    """The lr."""',
    ],
)
def test_a_repetition_is_seen(source: str) -> None:
    assert len(found_in(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        'def get(key: str) -> str:\n    """The value; raises KeyError where the key is unknown."""',
        'def add(y: float, a: float) -> float:\n    """y += a."""',
        'lr = 0.1\n"""Multiplied by the warm-up."""',
    ],
)
def test_what_says_more_is_left(source: str) -> None:
    assert found_in(source) == []
