"""Text files as a stream of documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from saeserve.core.specs.jobs import TextSpec
from saeserve.errors import DataError, SpecError

MAX_DOCUMENT_BYTES = 64 << 20
"""Documents are held in memory whole; a larger file is meant as lines or as several files."""
Message = dict[str, object]
Resolve = Callable[[str], Path]


@dataclass(frozen=True)
class Document:
    """One document; `origin` is root:path, with #line for lines and jsonl."""

    origin: str
    text: str
    messages: tuple[Message, ...] = ()
    """Messages of a conversation, whose `text` is their JSON; empty for plain text."""

    @property
    def sha256(self) -> str:
        """Hash of the text alone, so that equal documents fall into the same split."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_documents(texts: Sequence[TextSpec], resolve: Resolve) -> Iterator[Document]:
    """All documents of `texts` in order; folders recursively, in name order.

    `resolve` turns root:relative into a path. Raises SpecError for a path that is not there and
    DataError, naming file and line, for text that cannot be used.
    """
    for spec in texts:
        for origin, path in _files(spec.path, resolve(spec.path)):
            yield from _documents(origin, path, spec)


def _files(origin: str, path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_symlink():
        raise DataError(f"{origin} is a symbolic link", remedy="put the file itself below the root")
    if path.is_file():
        yield origin, path
    elif path.is_dir():
        yield from _folder(origin, path)
    else:
        raise SpecError(
            "harvest.texts.path",
            f"{origin} is neither a file nor a folder",
            remedy="name one below a root of the worker",
        )


def _folder(origin: str, folder: Path) -> Iterator[tuple[str, Path]]:
    names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    if not names:
        raise DataError(f"{origin} is an empty folder", remedy="put text files there")
    base = origin if origin.endswith((":", "/")) else f"{origin}/"
    for name in names:
        yield from _files(f"{base}{name}", folder / name)


def _documents(origin: str, path: Path, spec: TextSpec) -> Iterator[Document]:
    if spec.format == "text":
        yield _whole(origin, path)
        return
    found = False
    for number, line in _lines(origin, path):
        found = True
        where = f"{origin}#{number}"
        if spec.format == "chat":
            yield _conversation(where, line, spec.field)
        else:
            yield Document(
                where, line if spec.format == "lines" else _field(where, line, spec.field)
            )
    if not found:
        raise _empty(origin)


def _whole(origin: str, path: Path) -> Document:
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    text = _decode(origin, data)
    if not text.strip():
        raise _empty(origin)
    return Document(origin, text)


def _lines(origin: str, path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their ends, numbered from 1."""
    with path.open("rb") as file:
        for number, data in enumerate(iter(lambda: file.readline(MAX_DOCUMENT_BYTES + 1), b""), 1):
            line = _decode(f"{origin}#{number}", data).rstrip("\r\n")
            if line.strip():
                yield number, line


def _value(where: str, line: str, field: str) -> object:
    try:
        record: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not JSON: {error}", remedy="correct or remove the line"
        ) from None
    return cast("dict[str, object]", record).get(field) if isinstance(record, dict) else None


def _conversation(where: str, line: str, field: str) -> Document:
    value = _value(where, line, field)
    messages = cast("list[object]", value) if isinstance(value, list) else []
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise DataError(
            f"{where} has no list of messages in field {field!r}",
            remedy="name the field that holds the messages, or correct the line",
        )
    text = json.dumps(messages, ensure_ascii=False)
    _check_encodable(where, text)
    return Document(where, text, tuple(cast("list[Message]", messages)))


def _field(where: str, line: str, field: str) -> str:
    text = _value(where, line, field)
    if not isinstance(text, str):
        raise DataError(
            f"{where} has no text in field {field!r}",
            remedy="name the field that holds the text, or correct the line",
        )
    if not text.strip():
        raise _empty(where)
    _check_encodable(where, text)
    return text


def _check_encodable(where: str, text: str) -> None:
    """JSON can name half a surrogate pair, which is not a valid character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} is not Unicode text: {error.reason} at character {error.start}",
            remedy="correct or remove the line",
        ) from None


def _decode(origin: str, data: bytes) -> str:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DataError(
            f"{origin} is a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB",
            remedy="split the file, or set format = lines or jsonl",
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{origin} is not UTF-8: {error.reason} at byte {error.start}",
            remedy="convert it to UTF-8",
        ) from None


def _empty(origin: str) -> DataError:
    return DataError(f"{origin} holds no text", remedy="remove it or give it text")
