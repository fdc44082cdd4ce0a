"""The forms of an SAE: autoencoder, transcoder (target ≠ input), crosscoder (several sources); and
its one architecture."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.base import refuse_together
from saeserve.errors import SpecError


def check_form(
    source: str | None, target_source: str | None, sources: Sequence[str], *, skip: bool
) -> None:
    """Raise SpecError for fields of a train spec that do not make one form."""
    refuse_together(
        lambda: _check_crosscoder(source, target_source, sources),
        lambda: _check_target(source, target_source),
        lambda: _check_skip(target_source, skip=skip),
    )


def _check_target(source: str | None, target_source: str | None) -> None:
    if target_source is not None and target_source == source:
        raise SpecError(
            "train.target_source",
            f"is the source itself, {source!r}: that is an autoencoder",
            remedy="leave target_source out, or name another source",
        )


def _check_skip(target_source: str | None, *, skip: bool) -> None:
    if skip and target_source is None:
        raise SpecError(
            "train.skip_connection",
            "needs target_source: from a source to itself the connection alone would be exact",
            remedy="set target_source, or leave skip_connection out",
        )


def _check_crosscoder(
    source: str | None, target_source: str | None, sources: Sequence[str]
) -> None:
    if not sources:
        return
    if source is not None or target_source is not None:
        name = "target_source" if source is None else "source"
        raise SpecError(
            f"train.{name}",
            "is given together with sources, which name all that a crosscoder reads and writes",
            remedy=f"leave {name} or sources out",
        )
    if len(sources) < 2:
        raise SpecError(
            "train.sources",
            f"a crosscoder needs two sources or more; got {list(sources)}",
            remedy="name another source, or set source for an autoencoder",
        )
    if len(set(sources)) != len(sources):
        raise SpecError(
            "train.sources", f"a source is listed twice: {list(sources)}", remedy="name each once"
        )


def not_one(chosen: Sequence[str]) -> SpecError | None:
    """The refusal of none or several architectures."""
    if len(chosen) == 1:
        return None
    return SpecError(
        "train",
        f"exactly one architecture must be set; got {' and '.join(chosen) or 'none'}",
        remedy=f"set one of: {', '.join(ARCHITECTURE_SPECS)}",
    )
