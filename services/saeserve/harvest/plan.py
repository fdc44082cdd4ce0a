"""What a harvest will produce, worked out from the text before the model runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saeserve.core.data.finishing import DocumentOrigin, split_of
from saeserve.core.errors import DataError, DataMismatchError, NoSpaceError
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.harvest.documents import Document, Resolve, read_documents
from saeserve.harvest.sequences import Tokenization, TokenSequence
from saeserve.harvest.tokenizer import Tokens

PLAN_FILE = "harvest.json"
"""Beside the shards: what they were made from, so that another text never continues them."""
PLAN_FORMAT = 1
VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ROW_INTEGERS = 4
"""int32 a row: document, sequence, position, token id."""


@dataclass(frozen=True)
class Plan:
    """All documents in order, and the rows that they give together."""

    documents: tuple[DocumentOrigin, ...]
    rows: int


def survey(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, stop: Callable[[], bool]
) -> Plan | None:
    """Read and tokenise all text once: finds bad text early and counts the rows.

    None when told to stop. Raises DataError for text that cannot be used or gives no train rows.
    """
    documents: list[DocumentOrigin] = []
    rows = training_rows = 0
    for document, ids in tokenized(spec, tokenization, resolve):
        if stop():
            return None
        documents.append(DocumentOrigin(document.origin, document.sha256))
        rows += len(ids)
        if split_of(documents[-1].sha256, spec.heldout_fraction) == "train":
            training_rows += len(ids)
    if not training_rows:
        raise DataError(
            f"{len(documents)} documents give {rows} tokens and none of them for training",
            remedy="add documents (lines and jsonl make one of every line) or lower "
            "heldout_fraction",
        )
    return Plan(tuple(documents), rows)


def tokenized(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve
) -> Iterator[tuple[Document, Tokens]]:
    """Documents and their token ids; the last is cut where max_tokens is reached (0: never)."""
    left = spec.max_tokens or None
    for document in read_documents(spec.texts, resolve):
        ids = tokenization.tokenizer.ids(document.text)[:left]
        yield document, ids
        if left is not None:
            left -= len(ids)
            if left == 0:
                return


def planned_sequences(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, plan: Plan
) -> Iterator[TokenSequence]:
    """The sequences of the surveyed documents; raises DataError if a text changed meanwhile."""
    index = 0
    for number, (document, ids) in enumerate(tokenized(spec, tokenization, resolve)):
        if number >= len(plan.documents) or document.sha256 != plan.documents[number].sha256:
            raise DataError(
                f"{document.origin} changed while it was harvested",
                remedy="harvest again from text that nobody writes to",
            )
        for sequence in tokenization.sequences(number, index, ids):
            yield sequence
            index += 1


def estimate_bytes(spec: HarvestSpec, d_by_source: Mapping[str, int], rows: int) -> int:
    """Bytes that `rows` rows take on disk: values, one float32 norm a source, four int32."""
    values = sum(d_by_source.values()) * VALUE_BYTES[spec.dtype]
    return rows * (values + 4 * len(d_by_source) + 4 * ROW_INTEGERS)


def check_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError, with both numbers, where `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpaceError(
            f"the harvest needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free",
            remedy="free the space, lower max_tokens, or harvest fewer sites",
        )


def bind_plan(folder: Path, spec: HarvestSpec, plan: Plan, rows_present: int) -> None:
    """Record what the shards of `folder` are made from, or check that it is still the same.

    Raises DataMismatchError where rows are present that another spec or text has made.
    """
    path = folder / PLAN_FILE
    content = _plan_content(spec, plan)
    if rows_present and path.is_file() and path.read_text() != content:
        raise DataMismatchError(
            f"{rows_present} rows of data set {spec.dataset} were harvested with another spec "
            "or from other text",
            remedy="delete the data set and harvest it again",
        )
    temporary = folder / f".{PLAN_FILE}.part"
    temporary.write_text(content)
    temporary.replace(path)


def _plan_content(spec: HarvestSpec, plan: Plan) -> str:
    hashes = "".join(document.sha256 for document in plan.documents)
    content = {
        "format_version": PLAN_FORMAT,
        "spec": spec.to_json(),
        "documents_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "rows": plan.rows,
    }
    return json.dumps(content, sort_keys=True, indent=1)
