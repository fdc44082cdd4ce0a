"""What a harvest is made from, as its first attempt records it: no later one uses anything else.

The record lies in the folder of the attempt and is carried to the next, with the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from saeserve.core.data.disk import sha256_of
from saeserve.core.specs.jobs import HarvestSpec, LanguageModelSpec
from saeserve.errors import DataMismatchError
from saeserve.harvest.plan import Plan

RECORD_FILE = "harvest.json"
RECORD_FORMAT = 2
"""1 has neither `texts` nor `language_model`, and is compared by what it has."""
_INPUTS = {"texts": "the text", "language_model": "the language model"}
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_NAMED = 3

Hashes = dict[str, str]


def bind(folder: Path, spec: HarvestSpec, plan: Plan, model: Path, rows_present: int) -> None:
    """Record what the shards of `folder` are made from, or check that it is still the same.

    `model` is the language model's folder. Raises DataMismatchError naming the text or file that
    is another than in an earlier attempt, and where rows are present that another spec has made.
    """
    path = folder / RECORD_FILE
    content = _content(spec, plan, _model_hashes(model, spec.language_model))
    if path.is_file():
        earlier = cast("dict[str, Any]", json.loads(path.read_text()))
        _check_inputs(spec, earlier, content)
        if rows_present:
            _check_spec(spec, earlier, content, rows_present)
    temporary = folder / f".{RECORD_FILE}.part"
    temporary.write_text(json.dumps(content, sort_keys=True, indent=1))
    temporary.replace(path)


def _content(spec: HarvestSpec, plan: Plan, model: Hashes) -> dict[str, Any]:
    return {
        "format_version": RECORD_FORMAT,
        "spec": spec.to_json(),
        "documents_sha256": _joined([document.sha256 for document in plan.documents]),
        "rows": plan.rows,
        "texts": _text_hashes(plan),
        "language_model": model,
        **({"piece_sequences": plan.piece_sequences} if plan.pieces else {}),
    }


def _text_hashes(plan: Plan) -> Hashes:
    """A hash of each file's documents, as far as they are harvested."""
    found: dict[str, list[str]] = {}
    for document in plan.documents:
        name, _, line = document.origin.rpartition("#")
        file = name if name and line.isdigit() else document.origin
        found.setdefault(file, []).append(document.sha256)
    return {file: _joined(hashes) for file, hashes in found.items()}


def _model_hashes(folder: Path, model: LanguageModelSpec) -> Hashes:
    """SHA-256 of the files that weights, configuration and tokenizer are read from."""
    weights = [folder / model.gguf_file] if model.gguf_file else []
    patterns = _MODEL_FILES[1:] if weights else _MODEL_FILES
    files = {path for pattern in patterns for path in folder.glob(pattern)} | set(weights)
    return {f"{model.path}/{file.name}": sha256_of(file) for file in sorted(files)}


def _check_inputs(spec: HarvestSpec, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for kind, words in _INPUTS.items():
        changed = _changed(earlier.get(kind, now[kind]), now[kind])
        if changed:
            raise DataMismatchError(
                f"{words} was changed since an earlier attempt to harvest {spec.dataset} had read "
                f"it: {', '.join(changed[:_NAMED])}"
                + (f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""),
                remedy="restore it and submit the job again, or harvest a new data set from it",
            )


def _changed(earlier: Hashes, now: Hashes) -> list[str]:
    """Files that are new, gone or have other contents."""
    return [
        name for name in sorted(earlier.keys() | now.keys()) if earlier.get(name) != now.get(name)
    ]


def _check_spec(
    spec: HarvestSpec, earlier: Mapping[str, Any], now: Mapping[str, Any], rows: int
) -> None:
    names = (earlier.keys() | now.keys()) - {"format_version", *_INPUTS}
    if any(_comparable(earlier, name) != _comparable(now, name) for name in names):
        raise DataMismatchError(
            f"{rows} rows of data set {spec.dataset} were harvested with another spec or from "
            "other text",
            remedy="delete the data set and harvest it again",
        )


def _comparable(record: Mapping[str, Any], name: str) -> object:
    """What a record has under `name`; a spec with the fields that came after it, as defaults."""
    if name == "spec" and name in record:
        return HarvestSpec.parse(record[name], "harvest")
    return record.get(name)


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
