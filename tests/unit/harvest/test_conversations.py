"""Conversations in a tokenizer's chat template, special tokens and all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.tiny_models import CPU, save_model, tiny_llama

from saeserve.core.specs.jobs import TextSpec
from saeserve.errors import DataError, SpecError
from saeserve.harvest.documents import Document, read_documents
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.sequences import Tokenization

CHAT = TextSpec(path="texts:c.jsonl", format="chat", field="messages")
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ '<unk>' }} {{ m['role'] }} {{ m['content'] }} "
    "{% endfor %}"
)
Resolve = Callable[[str], Path]


def conversation(*contents: str) -> dict[str, Any]:
    return {"messages": [{"role": "w9", "content": content} for content in contents]}


def documents(resolve: Resolve, *lines: object) -> list[Document]:
    text = "\n".join(json.dumps(line) for line in lines)
    resolve("texts:c.jsonl").write_text(text)
    return list(read_documents([CHAT], resolve))


@pytest.fixture
def talking(tmp_path: Path) -> LanguageModel:
    save_model(tiny_llama(), tmp_path / "model")
    model = LanguageModel.load(tmp_path / "model", None, CPU, "float32")
    cast("Any", model.tokenizer)._inner.chat_template = TEMPLATE
    return model


@pytest.mark.parametrize(("bos", "front"), [(0, []), (None, [0])])
def test_messages_stand_in_the_template(
    resolve: Resolve, talking: LanguageModel, bos: int | None, front: list[int]
) -> None:
    """The template's own BOS is left out where one is put before every sequence."""
    found = documents(resolve, conversation("w1 w2", "w3"))
    ids = Tokenization(talking.tokenizer, 16, bos).ids(found[0])
    assert ids.tolist() == [*front, 1, 11, 3, 4, 1, 11, 5]


def test_conversations_are_told_apart_by_their_messages(resolve: Resolve) -> None:
    one, two, again = documents(resolve, conversation("w1"), conversation("w2"), conversation("w1"))
    assert one.sha256 == again.sha256 != two.sha256
    assert one.origin == "texts:c.jsonl#1"


def test_a_tokenizer_without_template_is_refused(
    resolve: Resolve, language_model: LanguageModel
) -> None:
    found = documents(resolve, conversation("w1"))
    with pytest.raises(SpecError, match="chat template") as caught:
        Tokenization(language_model.tokenizer, 16, 0).ids(found[0])
    assert caught.value.field == "harvest.texts.format"


@pytest.mark.parametrize("line", [{"messages": []}, {"messages": ["w1"]}, {"text": "w1"}, ["w1"]])
def test_lines_without_messages_name_the_line(resolve: Resolve, line: object) -> None:
    with pytest.raises(DataError, match=r"texts:c\.jsonl#1 has no list of messages"):
        documents(resolve, line)
