"""Texts in the code are plain technical English: rules 1 and 3 of CONTRIBUTING, "Language"."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "services" / "saeserve"
_GENERATED = _PACKAGE / "v1"
_MODULES = [
    *sorted(p for p in _PACKAGE.rglob("*.py") if not p.is_relative_to(_GENERATED)),
    *sorted((_ROOT / "bench").rglob("*.py")),
]
_OTHERS = sorted([*_PACKAGE.rglob("*.lua"), *(_ROOT / "protos").rglob("*.proto")])
_PAGES = [_ROOT / "DECISIONS.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_OPENINGS = re.compile(r"(Of|As|Those|See)\b")
_WORDS = re.compile(
    r"\b(told|untold|wished|anew|beside|whence|shall|stands? twice|(?:is|are) no)\b", re.I
)
_NEGATIONS = re.compile(r"\b(there\s+(is|are)\s+no|(is|are)\s+no\s+longer)\b", re.I)
"""Ordinary English; "X is no Y" is not."""

Text = tuple[int, str]
"""Line number and what stands there."""


def bare_strings(source: str) -> Iterator[Text]:
    """Yield docstrings, attribute docstrings included."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def python_texts(source: str) -> Iterator[Text]:
    """Yield comments and the strings that have a space: names and keys are not texts."""
    kinds = {tokenize.COMMENT, tokenize.STRING}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds and " " in token.string:
            # In f-strings, what stands between braces is code.
            yield token.start[0], re.sub(r"\{[^{}]*\}", "{}", token.string)


def comments(source: str) -> Iterator[Text]:
    """Yield the comments of Lua and of protobuf."""
    for number, line in enumerate(source.splitlines(), 1):
        if found := re.search(r"(--|//).*", line):
            yield number, found[0]


def page_texts(source: str) -> Iterator[Text]:
    """Yield the lines of a page."""
    yield from enumerate(source.splitlines(), 1)


def banned(text: str) -> list[str]:
    """Return the banned words in a text, names in backticks left out."""
    prose = re.sub(r"`[^`]*`", "", " ".join(text.split()))
    return _WORDS.findall(_NEGATIONS.sub("", prose))


_READERS = {".py": python_texts, ".md": page_texts}


def offences(files: list[Path]) -> list[str]:
    """Return `path:line: word` for each banned word in the files."""
    found: list[str] = []
    for path in files:
        texts = _READERS.get(path.suffix, comments)
        for line, text in texts(path.read_text()):
            found += [f"{path.relative_to(_ROOT)}:{line}: {word}" for word in banned(text)]
    return found


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    found = [
        f"{path.relative_to(_ROOT)}:{line}: {text.splitlines()[0]}"
        for path in _MODULES
        for line, text in bare_strings(path.read_text())
        if _OPENINGS.match(text)
    ]
    assert not found, "\n".join(found)


def test_texts_have_none_of_the_banned_words() -> None:
    found = offences([*_MODULES, *_OTHERS, *_PAGES])
    assert not found, "\n".join(found)


def test_a_banned_word_is_seen_in_each_kind_of_text() -> None:
    python = '"""Read anew."""\nx = f"{told} is no name"  # beside it\n'
    assert [banned(text) for _, text in python_texts(python)] == [["anew"], ["is no"], ["beside"]]
    assert [banned(text) for _, text in comments("local told = 1 -- told\n")] == [["told"]]
    assert [banned(text) for _, text in page_texts("# Told\nbeside\n")] == [["Told"], ["beside"]]
    assert not banned("there is no such job; it is no longer kept")
