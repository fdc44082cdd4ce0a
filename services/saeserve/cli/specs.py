"""Job specs from files and flags: `-f job.yaml`, `--set path=value`, and a few short flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml
from typing_extensions import override

from saeserve.cli.refusals import reading, refused

Tree = dict[str, Any]


def read_file(path: Path) -> Tree:
    """A job file: YAML or JSON, with the job kind as its one top-level key."""
    with reading(path, "a job file, YAML or JSON"):
        data = path.read_bytes()
    try:
        value = yaml.load(data.decode(), StrictLoader)
    except UnicodeDecodeError as error:
        raise refused(f"{path} is not text, at byte {error.start}", field="file") from error
    except (yaml.YAMLError, ValueError) as error:
        raise refused(f"{path} is not YAML: {_one_line(error)}", field="file") from error
    if not isinstance(value, dict):
        raise refused(
            f"{path} holds {type(value).__name__}, not a mapping",
            field="file",
            remedy="begin it with the kind of job, such as train:, and indent its fields below",
        )
    return cast(Tree, value)


def kind_of(path: Path) -> str:
    """The kind of job that a file describes. Raises InvalidArgumentError for several, or none."""
    kinds = list(read_file(path))
    if len(kinds) != 1:
        raise refused(
            f"{path} has {', '.join(map(str, kinds)) or 'nothing'} at its top",
            field="file",
            remedy="put one kind of job there, such as train:, and indent its fields below",
        )
    return str(kinds[0])


class StrictLoader(yaml.SafeLoader):
    """Plain data only, and no key twice: the last one would win unseen."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build the mapping. Raises ConstructorError for a key that is listed twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} stands there twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _one_line(error: Exception) -> str:
    """YAML's texts are of several lines; what is wrong, and where, fit into one."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def build(kind: str, file: Path | None, flags: Tree, settings: list[str]) -> Tree:
    """One spec: the file's, overlaid by flags that were given, overlaid by --set."""
    spec: Tree = read_file(file) if file else {kind: {}}
    if set(spec) != {kind}:
        raise refused(
            f"{file} describes {', '.join(map(str, spec))}, not {kind}",
            field="spec",
            remedy=f"submit it as that kind, or put {kind}: at its top",
        )
    spec[kind] = {} if spec[kind] is None else spec[kind]
    if not isinstance(spec[kind], dict):
        raise refused(f"{file}: {kind} is {spec[kind]!r}, and should have fields", field=kind)
    for path, value in flags.items():
        if value is not None:
            put(spec[kind], path, value)
    return overlaid(spec, kind, settings)


def overlaid(spec: Tree, kind: str, settings: list[str]) -> Tree:
    """The spec with what --set gives."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not all(path.split(".")):
            raise refused(f"--set {setting}: write it as path=value", field=path)
        try:
            put(spec[kind], path, yaml.load(text, StrictLoader))
        except (yaml.YAMLError, ValueError) as error:
            told = f"--set {setting}: the value is not YAML: {_one_line(error)}"
            raise refused(told, field=path) from error
    return spec


def put(tree: Tree, path: str, value: object) -> None:
    """Set a dotted path, making what lies between. Raises InvalidArgumentError where a value
    without fields lies between."""
    *parents, last = path.split(".")
    for depth, name in enumerate(parents):
        inner = tree.get(name)
        if inner is not None and not isinstance(inner, dict):
            at = ".".join(parents[: depth + 1])
            raise refused(f"{path} cannot be set: {at} is {inner!r} and has no fields", field=path)
        if inner is None:
            inner = tree[name] = {}
        tree = cast(Tree, inner)
    tree[last] = value


def grid(axes: list[str] | None) -> Tree | None:
    """A sweep from texts such as k=16,32,64, one a field; None where there are none."""
    found: Tree = {}
    for text in axes or ():
        name, equals, values = text.partition("=")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise refused(f"--sweep {text}: write it as k=16,32,64", field="sweep")
        if name in found:
            raise refused(
                f"--sweep {name} stands there twice", remedy="list all its values at once"
            )
        found[name] = [value.strip() for value in values.split(",")]
    return found or None
