from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from saeserve.core.specs.jobs import TextSpec
from saeserve.errors import DataError, SpecError
from saeserve.harvest import documents
from saeserve.harvest.documents import Document, read_documents

Resolve = Callable[[str], Path]


def read(resolve: Resolve, **fields: str) -> list[Document]:
    spec = TextSpec.parse({"path": "texts:", **fields}, "text")
    return list(read_documents([spec], resolve))


def test_folder_is_read_recursively_in_name_order(resolve: Resolve, tmp_path: Path) -> None:
    root = tmp_path / "texts"
    (root / "b").mkdir()
    for name in ("c.txt", "b/z.txt", "b/a.txt", "a.txt", ".hidden"):
        (root / name).write_text(f"text of {name}")
    origins = [document.origin for document in read(resolve)]
    assert origins == ["texts:a.txt", "texts:b/a.txt", "texts:b/z.txt", "texts:c.txt"]


def test_text_file_is_one_document(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "texts/a.txt").write_bytes("\ufeffone\ntwo é\n".encode())
    (document,) = read(resolve, path="texts:a.txt")
    assert document == Document("texts:a.txt", "one\ntwo é\n")
    assert document.sha256 == hashlib.sha256("one\ntwo é\n".encode()).hexdigest()


def test_every_line_that_is_not_blank_is_a_document(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "texts/a.txt").write_bytes(b"one\r\n\n  \nfour")
    assert read(resolve, path="texts:a.txt", format="lines") == [
        Document("texts:a.txt#1", "one"),
        Document("texts:a.txt#4", "four"),
    ]


def test_jsonl_takes_the_field(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "texts/a.jsonl").write_text('{"body": "one"}\n\n{"body": "two", "x": 1}\n')
    found = read(resolve, path="texts:a.jsonl", format="jsonl", field="body")
    assert [(d.origin, d.text) for d in found] == [
        ("texts:a.jsonl#1", "one"),
        ("texts:a.jsonl#3", "two"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ', "texts:a.jsonl#2 is not JSON"),
        (b"[" * 100_000, "texts:a.jsonl#2 is not JSON"),
        (b'{"body": "x"}', "texts:a.jsonl#2 has no text in field 'text'"),
        (b'{"text": 3}', "texts:a.jsonl#2 has no text in field 'text'"),
        (b'["text"]', "texts:a.jsonl#2 has no text in field 'text'"),
        (b'{"text": " "}', "texts:a.jsonl#2 holds no text"),
        (b'{"text": "\xff"}', "texts:a.jsonl#2 is not UTF-8: invalid start byte at byte 10"),
        (b'{"text": "\\ud800"}', "texts:a.jsonl#2 is not Unicode text"),
    ],
)
def test_bad_line_is_named(resolve: Resolve, tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "texts/a.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        read(resolve, path="texts:a.jsonl", format="jsonl")
    assert message in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("format_", ["text", "lines", "jsonl"])
def test_empty_text_is_refused(resolve: Resolve, tmp_path: Path, format_: str) -> None:
    (tmp_path / "texts/a").write_bytes(b" \n\n")
    with pytest.raises(DataError, match="texts:a holds no text"):
        read(resolve, path="texts:a", format=format_)


def test_invalid_utf8_in_a_text_file(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "texts/a.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"texts:a\.txt is not UTF-8: .* at byte 3"):
        read(resolve)


def test_what_is_no_file_is_refused(resolve: Resolve, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is an empty folder"):
        read(resolve)
    with pytest.raises(SpecError, match="neither a file nor a folder"):
        read(resolve, path="texts:absent.txt")
    (tmp_path / "secret").write_text("outside of the root")
    (tmp_path / "texts/link").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="texts:link is a symbolic link"):
        read(resolve)


def test_document_that_memory_should_not_hold(
    resolve: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 8)
    (tmp_path / "texts/a.txt").write_text("123456789\n12")
    with pytest.raises(DataError, match="a document of more than") as caught:
        read(resolve)
    assert "lines" in caught.value.remedy
    with pytest.raises(DataError, match=r"a\.txt#1 is a document of more than"):
        read(resolve, format="lines")
