"""What generate and annotate jobs found, as their pages show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saeserve.client.values import Job
from saeserve.explorer.contexts import level
from saeserve.explorer.formats import exact

Report = Mapping[str, Any]


@dataclass(frozen=True)
class ShownEdit:
    """A feature, and what was done to it, in words."""

    feature: int
    action: str


@dataclass(frozen=True)
class SteeredText:
    """A prompt, how both texts go on alike, and how each goes on from there."""

    prompt: str
    alike: str
    unsteered: str
    steered: str
    positions: int
    """Positions of prompt and text at which the edits changed an activation."""
    first: int | None
    """The first of them; null where there are none."""
    kl_nats: float | None
    """KL(unsteered || steered) of what follows that position."""


@dataclass(frozen=True)
class Firing:
    """A feature on a token."""

    feature: int
    value: float


@dataclass(frozen=True)
class AnnotatedToken:
    """A token and its strongest features; `level` is the strength that is shown, 0 to LEVELS."""

    text: str
    level: int
    value: float
    firing: tuple[Firing, ...]
    beyond_norm_bound: bool


@dataclass(frozen=True)
class FeatureOfText:
    """A feature that is among the strongest of some token: on how many, and where most."""

    feature: int
    value: float
    token: str
    tokens: int


@dataclass(frozen=True)
class AnnotatedText:
    """A text with the features of its tokens. `largest` is the magnitude that levels are shares
    of: of one feature, if one was chosen, else of all."""

    tokens: tuple[AnnotatedToken, ...]
    features: tuple[FeatureOfText, ...]
    largest: float


def edits_of(job: Job) -> tuple[ShownEdit, ...]:
    """The edits of a generate job."""
    edits = job.resolved_spec.get("generate", {}).get("edits", ())
    return tuple(ShownEdit(each.get("feature", 0), _action(each)) for each in edits)


def steered_of(job: Job) -> tuple[SteeredText, ...]:
    """What a generate job wrote."""
    reports = [output.generation for output in job.outputs if output.generation is not None]
    return tuple(_steered(each) for report in reports for each in report.get("continuations", ()))


def annotated_of(job: Job, chosen: int | None) -> tuple[AnnotatedText, ...]:
    """The texts of an annotate job; levels are those of the feature `chosen`, if one is."""
    reports = [output.annotation for output in job.outputs if output.annotation is not None]
    texts = [each for report in reports for each in report.get("texts", ())]
    return tuple(_annotated(each.get("tokens", ()), chosen) for each in texts)


def _action(edit: Report) -> str:
    if "ablate" in edit:
        return "ablated"
    if "clamp" in edit:
        bounds = edit["clamp"]
        low, high = (exact(bounds[end]) if end in bounds else "" for end in ("low", "high"))
        return f"clamped to {low} … {high}"
    words = {"add": "plus", "set": "set to", "scale": "times"}
    return next(f"{word} {exact(edit[name])}" for name, word in words.items() if name in edit)


def _steered(found: Report) -> SteeredText:
    both = [str(found.get(which, {}).get("text", "")) for which in ("unsteered", "steered")]
    alike = _alike(*both)
    return SteeredText(
        prompt=str(found.get("prompt", "")),
        alike=alike,
        unsteered=both[0][len(alike) :],
        steered=both[1][len(alike) :],
        positions=found.get("steered", {}).get("steered_positions", 0),
        first=found.get("first_steered_position"),
        kl_nats=found.get("kl_nats"),
    )


def _alike(first: str, second: str) -> str:
    """How the texts begin alike, up to the last white space unless they are the same."""
    if first == second:
        return first
    pairs = enumerate(zip(first, second, strict=False))
    parted = next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
    return first[: max(first.rfind(each, 0, parted) for each in " \n") + 1]


def _annotated(tokens: Sequence[Report], chosen: int | None) -> AnnotatedText:
    firing = [_firing(token) for token in tokens]
    shown = [_shown(each, chosen) for each in firing]
    largest = max(map(abs, shown), default=0.0)
    return AnnotatedText(
        tuple(
            AnnotatedToken(
                text=str(token.get("text", "")),
                level=level(value, largest) if value else 0,
                value=value,
                firing=each,
                beyond_norm_bound=bool(token.get("beyond_norm_bound")),
            )
            for token, each, value in zip(tokens, firing, shown, strict=True)
        ),
        _features(tokens, firing),
        largest,
    )


def _firing(token: Report) -> tuple[Firing, ...]:
    pairs = zip(token.get("features", ()), token.get("values", ()), strict=True)
    return tuple(Firing(feature, value) for feature, value in pairs)


def _shown(firing: Sequence[Firing], chosen: int | None) -> float:
    """The activation whose strength a token shows."""
    wanted = [each.value for each in firing if chosen is None or each.feature == chosen]
    return max(wanted, key=abs, default=0.0)


def _features(
    tokens: Sequence[Report], firing: Sequence[Sequence[Firing]]
) -> tuple[FeatureOfText, ...]:
    """The features of a text, that of the largest activation first."""
    found: dict[int, FeatureOfText] = {}
    for token, each in zip(tokens, firing, strict=True):
        for one in each:
            known = found.get(one.feature)
            most = FeatureOfText(one.feature, one.value, str(token.get("text", "")), 0)
            if known is not None and abs(known.value) >= abs(one.value):
                most = known
            count = known.tokens + 1 if known is not None else 1
            found[one.feature] = FeatureOfText(one.feature, most.value, most.token, count)
    return tuple(sorted(found.values(), key=lambda each: (-abs(each.value), each.feature)))
