"""Job files: the API's spec as YAML or JSON, with the job kind as its one top-level key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from saeserve.client.errors import InvalidArgumentError, PreconditionError
from saeserve.client.local_files import local_errors, path_of
from saeserve.client.refusals import bad_spec, no_local_file
from saeserve.v1 import spec_pb2

SpecInput = Mapping[str, Any] | spec_pb2.JobSpec


def spec_data(spec: object) -> SpecInput:
    """`spec` itself, or what the file holds whose path it is.

    Raises InvalidArgumentError for a file that holds no spec, PreconditionError where it cannot be
    read, or is YAML and PyYAML is not installed.
    """
    path = path_of(spec)
    if path is not None:
        return _read(path)
    if not isinstance(spec, Mapping | spec_pb2.JobSpec):
        raise bad_spec(
            f"a {type(spec).__name__} is not a job spec",
            field="spec",
            remedy='pass {"train": {…}} or another kind of job, or the path of a job file',
        )
    return cast("SpecInput", spec)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise no_local_file(
            f"{path} is a folder" if path.is_dir() else f"there is no {path} on this machine",
            field="spec",
            remedy="name a job file, YAML or JSON",
        )
    with local_errors(f"{path} cannot be read"):
        data = path.read_bytes()
    try:
        text = data.decode()
        value = _json(text) if path.suffix == ".json" else _yaml(path, text)
    except ValueError as error:
        raise _bad(path, f"cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise _bad(path, "holds no mapping")
    return cast("dict[str, Any]", value)


def _json(text: str) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_unique([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _yaml(path: Path, text: str) -> object:
    try:
        import yaml  # the client's install does not bring it; that of the command line does
    except ImportError as error:
        raise PreconditionError(
            f"{path} is YAML, which needs PyYAML to be read",
            reason="YAML_NOT_INSTALLED",
            field="spec",
            remedy="pip install PyYAML, or give the job as .json or as a dict",
        ) from error

    class Loader(yaml.SafeLoader):
        """Refuses a key that is listed twice, of which the last would silently win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _check_unique([str(key.value) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _check_unique(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the key {name} is listed twice in one mapping")


def _bad(path: Path, what: str) -> InvalidArgumentError:
    return bad_spec(
        f"{path} {what}",
        field="spec",
        remedy="write a job file that begins with its kind, such as 'train:'",
    )
