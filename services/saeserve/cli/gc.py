"""`saeserve gc`: what the store needs no more."""

from __future__ import annotations

from typing import Annotated

import typer

from saeserve.cli.figures import size
from saeserve.cli.output import Json, connect, console, print_json
from saeserve.cli.tables import print_table
from saeserve.client.store import Leftover

_DAY_S = 86_400.0


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only list it.")] = False,
    checkpoint_days: Annotated[
        float | None,
        typer.Option(
            help="How long jobs that have ended keep their last checkpoint; the server's setting "
            "is 7 days.",
            min=0,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List leftovers of the store, and remove them with --yes: temporaries of processes that were
    killed, exports that attempts put together, checkpoints of jobs that have ended. Models, data
    sets, exports and jobs are never removed by it."""
    seconds = None if checkpoint_days is None else checkpoint_days * _DAY_S
    with connect() as client:
        found = list(client.store.collect_garbage(execute=yes, checkpoint_seconds=seconds))
    if as_json:
        print_json(found)
    else:
        print_table(
            ("path", "size", "what", "fate"),
            ((each.path, size(each.bytes), each.why, _fate(each)) for each in found),
        )
        console.print(_sum(found, yes), highlight=False)
    if any(each.error for each in found):
        raise typer.Exit(1)


def _fate(leftover: Leftover) -> str:
    if leftover.error:
        return f"cannot be removed: {leftover.error}"
    if leftover.kept:
        return f"stays: {leftover.kept}"
    return "removed" if leftover.removed else "can go"


def _sum(found: list[Leftover], yes: bool) -> str:
    gone = [each for each in found if (each.removed if yes else not each.kept)]
    total = size(sum(each.bytes for each in gone))
    if yes:
        return f"{len(gone)} removed, {total}"
    return f"{len(gone)} can go, {total}; nothing was removed: --yes does that"
