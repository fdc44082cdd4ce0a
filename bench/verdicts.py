"""Whether our figures reach the peers': for each architecture, against the better peer run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bench.results import Estimate, Key, Run, aligned, estimates


def judge(
    runs: Sequence[Run],
    figure: str,
    ours: str,
    counterparts: Mapping[str, str],
    *,
    higher_is_better: bool,
) -> str:
    """A line for every architecture of the peers in `counterparts`, which names ours of its kind:
    ours, the best of theirs, the verdict."""
    sign = 1 if higher_is_better else -1
    found = estimates(runs, figure)
    lines = [[figure, ours, "best peer", "", "difference", "verdict"]]
    for architecture, own in counterparts.items():
        mine = {key: value for key, value in found.items() if key[:2] == (ours, own)}
        theirs = {key: v for key, v in found.items() if key[0] != ours and key[1] == architecture}
        if mine and theirs:
            lines.append([architecture, *_compared(mine, theirs, sign)])
    return aligned(lines)


def best_margin(runs: Sequence[Run], figure: str, ours: str, margin: float) -> str:
    """Whether our best model exceeds every other library's best by `margin`."""
    found = estimates(runs, figure)
    mine = _best({key: value for key, value in found.items() if key[0] == ours}, 1)
    theirs = _best({key: value for key, value in found.items() if key[0] != ours}, 1)
    difference = mine[1].mean - theirs[1].mean
    verdict = "reached" if difference >= margin else "MISSED"
    return (
        f"best {figure}: {mine[0][1]} {mine[1]} against {' '.join(theirs[0])} {theirs[1]}: "
        f"{difference:+.3f}, wanted {margin:+.3f}: {verdict}"
    )


def _compared(mine: dict[Key, Estimate], theirs: dict[Key, Estimate], sign: int) -> list[str]:
    _, us = _best(mine, sign)
    key, them = _best(theirs, sign)
    difference = us.mean - them.mean
    verdict = "reached" if reaches(us, them, sign) else "MISSED"
    return [str(us), str(them), f"{key[0]}, {key[2]}", f"{difference:+.3f}", verdict]


def reaches(us: Estimate, them: Estimate, sign: int) -> bool:
    """Whether `us` is not worse than `them` by more than one standard error of the difference.

    `sign` is 1 where higher is better, -1 where lower is. Single runs have no error.
    """
    error = math.hypot(us.error, them.error)
    allowed = 0.0 if math.isnan(error) else error
    return sign * (us.mean - them.mean) >= -allowed


def with_best_peers(runs: Sequence[Run], figure: str, ours: str) -> list[Run]:
    """Our runs and, for each architecture, those of the peer whose `figure` is lowest."""
    found = {key: e for key, e in estimates(runs, figure).items() if key[0] != ours}
    kept = {
        _best({key: e for key, e in found.items() if key[1] == architecture}, -1)[0]
        for architecture in {key[1] for key in found}
    }
    return [run for run in runs if run.library == ours or run.key[:3] in kept]


def _best(found: dict[Key, Estimate], sign: int) -> tuple[Key, Estimate]:
    return max(found.items(), key=lambda item: sign * item[1].mean)
