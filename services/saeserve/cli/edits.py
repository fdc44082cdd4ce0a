"""Edits of features from flags: `--add 12=8 --scale 7=0 --clamp 3=0:2 --ablate 5`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from saeserve.cli.refusals import refused

Edit = dict[str, Any]
Add = Annotated[
    list[str] | None,
    typer.Option(help="feature=value: add to its activation; these flags may be repeated."),
]
SetTo = Annotated[
    list[str] | None, typer.Option("--set", help="feature=value: put in place of its activation.")
]
Scale = Annotated[list[str] | None, typer.Option(help="feature=factor: multiply its activation.")]
Clamp = Annotated[
    list[str] | None,
    typer.Option(help="feature=low:high: bounds of its activation; one may be absent."),
]
Ablate = Annotated[list[int] | None, typer.Option(help="Feature whose activation becomes 0.")]


def edits_of(
    given: Mapping[str, Sequence[str] | None],
    clamps: Sequence[str] | None,
    ablated: Sequence[int] | None,
) -> list[Edit]:
    """The edits of flags: those `given` by action (add, set, scale), then bounds, then ablations.
    Raises InvalidArgumentError naming a flag that cannot be read, and for no edit at all."""
    found: list[Edit] = []
    for action, texts in given.items():
        for text in texts or ():
            feature, value = _parts(action, text, "value")
            found.append({"feature": feature, action: _number(action, text, value)})
    found += [_clamp(text) for text in clamps or ()]
    found += [{"feature": feature, "ablate": True} for feature in ablated or ()]
    if not found:
        raise refused(
            "there is no edit",
            field="edits",
            remedy="give --add, --set, --scale, --clamp or --ablate",
        )
    return found


def _clamp(text: str) -> Edit:
    feature, bounds = _parts("clamp", text, "low:high")
    low, colon, high = bounds.partition(":")
    if not colon:
        raise _wrong("clamp", text, "low:high")
    limits = {"low": low, "high": high}
    return {
        "feature": feature,
        "clamp": {
            name: _number("clamp", text, value) for name, value in limits.items() if value.strip()
        },
    }


def _parts(action: str, text: str, form: str) -> tuple[int, str]:
    match = re.fullmatch(r"\s*([0-9]+)\s*=(.*)", text)
    if match is None:
        raise _wrong(action, text, form)
    return int(match[1]), match[2]


def _number(action: str, text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(action, text, "value")
    return number


def _wrong(action: str, text: str, form: str) -> Exception:
    return refused(
        f"--{action} {text}: write feature={form}, with finite numbers", field=f"edits.{action}"
    )
