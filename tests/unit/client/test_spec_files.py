"""A job file is what it says, or refused in a line that names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from saeserve.client.errors import InvalidArgumentError, PreconditionError
from saeserve.client.spec_files import spec_data

SPEC: dict[str, Any] = {"train": {"dataset": "acts", "topk": {"k": 2}, "lr": 0.001}}
YAML = "train:\n  dataset: acts\n  topk: {k: 2}\n  lr: 0.001\n"


def file(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_yaml_and_json_are_read(tmp_path: Path) -> None:
    for path in (
        file(tmp_path, "job.yaml", YAML),
        file(tmp_path, "job.yml", json.dumps(SPEC)),
        file(tmp_path, "job.json", json.dumps(SPEC)),
    ):
        assert spec_data(path) == spec_data(str(path)) == SPEC
    assert spec_data(SPEC) is SPEC


def test_without_pyyaml_json_is_read_and_yaml_refused_saying_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert spec_data(file(tmp_path, "job.json", json.dumps(SPEC))) == SPEC
    with pytest.raises(PreconditionError, match=r"pip install PyYAML") as caught:
        spec_data(file(tmp_path, "job.yaml", YAML))
    assert caught.value.reason == "YAML_NOT_INSTALLED"


WRONG = {
    "binary.yaml": (b"\xff\xfe\x00\x01", "cannot be read"),
    "brackets.yaml": ("train: {a: [1", "cannot be read"),
    "twice.yaml": ("train:\n  lr: 1\n  lr: 2\n", "the key lr is listed twice"),
    "twice.json": ('{"train": {"lr": 1, "lr": 2}}', "the key lr is listed twice"),
    "list.yaml": ("- train\n", "holds no mapping"),
    "empty.yaml": ("", "holds no mapping"),
    "code.yaml": ("train: !!python/object/apply:os.getcwd []\n", "cannot be read"),
    "bad.json": ("{", "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_refused_in_a_line(tmp_path: Path, name: str) -> None:
    data, text = WRONG[name]
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        spec_data(file(tmp_path, name, data))
    assert name in caught.value.message
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"there is no .*job\.yaml"):
        spec_data(str(tmp_path / "job.yaml"))
    with pytest.raises(InvalidArgumentError, match="is a folder"):
        spec_data(tmp_path)
    with pytest.raises(InvalidArgumentError, match="a list is not a job spec"):
        spec_data([SPEC])
