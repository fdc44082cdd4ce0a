"""`saeserve presets`: documented training configs."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from saeserve.cli.figures import listed
from saeserve.cli.output import Json, connect, print_json, say
from saeserve.cli.refusals import refused
from saeserve.cli.tables import print_table
from saeserve.client.architectures import ARCHITECTURES
from saeserve.client.server import Preset


def presets(
    name: Annotated[str, typer.Argument(help="Show this one in full.")] = "",
    as_json: Json = False,
) -> None:
    """List documented training configs, or show one: what submit train --preset takes."""
    with connect() as client:
        found = client.server.presets()
    if name:
        found = (_named(name, found),)
    if as_json:
        print_json(found[0] if name else found)
    elif name:
        say(f"{name}: {found[0].source}")
        print_json(found[0].spec)
    else:
        print_table(("preset", "architecture", "from"), map(_row, found))


def _row(preset: Preset) -> tuple[str, str, str]:
    architectures = (each for each in ARCHITECTURES if each in preset.spec)
    return preset.name, listed(architectures), origin(preset.source)


def origin(source: str) -> str:
    """Where a preset is from: its text up to the colon before what it consists of. A colon in
    parentheses belongs to what they hold."""
    depth = 0
    for at, character in enumerate(source):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == ":" and not depth:
            return source[:at]
    return source


def _named(name: str, found: tuple[Preset, ...]) -> Preset:
    names = [preset.name for preset in found]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"name one of: {listed(names)}"
        raise refused(f"there is no preset {name!r}", field="name", remedy=hint)
    return found[names.index(name)]
