"""The demo's last step: one labelled feature, and the text that it makes when it is steered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saeserve.cli.output import console
from saeserve.client import Client, FeatureFilter
from saeserve.client.feature_values import FeatureSummary
from saeserve.demo import presets, run

PROMPT = "The people went out and saw"
STRENGTH = 1.5
"""Times the largest activation that was collected."""
NEW_TOKENS = 24
LEAST_DENSITY = 3e-3
"""Features that fire less have few firings among the demo's held-out rows to score a label on."""
_WORD = re.compile("␣[A-Za-z]{3}")
LEAST_RECALL = 0.3
"""A label that predicts few of the firings is precise and says little."""


def best_feature(client: Client, model: str) -> FeatureSummary | None:
    """The feature whose label begins with a word and predicts its firings on held-out text best, by
    F1; None where no label is any good."""
    where = FeatureFilter(min_density=LEAST_DENSITY)
    known = client.features.list(model, where=where)
    words = [each for each in known if _WORD.match(each.label or "")]
    good = [each for each in words if (each.label_recall or 0) >= LEAST_RECALL]
    return max(good, key=_f1, default=None)


def show(client: Client, preset: presets.SaePreset) -> None:
    """Print the feature, the text as it is and steered, and how to do it again."""
    found = best_feature(client, preset.model)
    if found is None:
        console.print("no feature of the demo has a label that predicts its firings")
        return
    console.print(
        f"\n{preset.title}: feature {found.feature} fires on {found.label} (precision "
        f"{found.label_precision:.2f}, recall {found.label_recall:.2f} on held-out text)",
        style="bold",
        highlight=False,
    )
    text = _continued(client, preset.model, found)
    for name in ("unsteered", "steered"):
        console.print(f"  {name:<10} {PROMPT}{text[name]['text']!r}", highlight=False)
    console.print(
        f"  with the services up: .venv/bin/saeserve steer {preset.model} --prompt '{PROMPT}' "
        f"--add {found.feature}={_added(found)}",
        highlight=False,
    )


def _continued(client: Client, model: str, found: FeatureSummary) -> Mapping[str, Any]:
    edit = {"feature": found.feature, "add": _added(found)}
    spec = {
        "model": model,
        "dataset": presets.DATASET,
        "prompts": [PROMPT],
        "edits": [edit],
        "max_new_tokens": NEW_TOKENS,
    }
    job = run.submit(client, {"generate": spec})
    done = run.follow_all(client, {"steer": job})["steer"]
    generation = done.outputs[0].generation
    assert generation is not None, "a generate job has its texts among its outputs"
    return generation["continuations"][0]


def _added(found: FeatureSummary) -> float:
    return round(found.max * STRENGTH, 1)


def _f1(found: FeatureSummary) -> float:
    precision, recall = found.label_precision or 0.0, found.label_recall or 0.0
    return 2 * precision * recall / max(precision + recall, 1e-9)
