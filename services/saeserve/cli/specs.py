"""Job specs from files and flags: `-f job.yaml`, `--set path=value`, and a few short flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import typer
import yaml

from saeserve.client.errors import InvalidArgumentError

Tree = dict[str, Any]


def read_file(path: Path) -> Tree:
    """A job file: YAML or JSON, with the job kind as its one top-level key."""
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} holds no mapping; it should begin with 'train:' or so")
    return cast(Tree, value)


def build(kind: str, file: Path | None, flags: Tree, settings: list[str]) -> Tree:
    """One spec: the file's, overlaid by flags that were given, overlaid by --set."""
    spec: Tree = read_file(file) if file else {kind: {}}
    if set(spec) != {kind}:
        raise InvalidArgumentError(
            f"{file} describes {', '.join(spec)}, not {kind}",
            field="spec",
            remedy=f"submit it as that kind, or put {kind}: at its top",
        )
    spec[kind] = spec[kind] or {}
    for path, value in flags.items():
        if value is not None:
            put(spec[kind], path, value)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {setting}: write it as path=value")
        put(spec[kind], path, yaml.safe_load(text))
    return spec


def put(tree: Tree, path: str, value: object) -> None:
    """Set a dotted path, making what lies between."""
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def grid(axes: list[str] | None) -> Tree | None:
    """A sweep from texts such as k=16,32,64, one a field; None where there are none."""
    found: Tree = {}
    for text in axes or ():
        name, equals, values = text.partition("=")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise typer.BadParameter(f"--sweep {text}: write it as k=16,32,64")
        if name in found:
            raise typer.BadParameter(f"--sweep {name} stands twice; list all its values at once")
        found[name] = [value.strip() for value in values.split(",")]
    return found or None


def count(text: str | None) -> int | None:
    """A count such as 50000, 50k, 2M or 1.5B."""
    if text is None:
        return None
    scale = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    try:
        return round(float(digits.replace("_", "")) * scale)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no count; write 50000, 50k or 2M") from error
