"""A model's card with what evaluations found after it was published.

Versions never change, nor do their cards in the store. Whatever leaves a deployment has the
figures that are known then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saeserve.cli.figures import count, figure
from saeserve.client import Client
from saeserve.client.evaluated import newest_evaluation
from saeserve.client.evaluations import EvaluationMetric
from saeserve.client.values import JobOutput

CARD = "README.md"
_FIGURES = {
    "fvu": "fraction of variance unexplained",
    "l0": "mean number of active latents of a row",
    "ce_delta_nats": "rise of the language model's cross-entropy with reconstructions in place",
    "kl_nats": "KL(clean ‖ spliced) of the next token's distribution",
    "loss_recovered_mean": "loss recovered, against mean ablation",
    "loss_recovered_zero": "loss recovered, against zero ablation",
    "loss_recovered_mean_pca": "the same of as many principal components as the L0",
    "loss_recovered_mean_random": "the same of a random dictionary of that L0",
}
_BEFORE = ("\n## Warnings\n", "\n## Use\n")
"""Sections of a stored card that come after the evaluation's."""


def card_of(client: Client, resource: str, folder: Path) -> bytes | None:
    """The card in a downloaded `folder` of a version, with its newest evaluation that the caller
    may see; None where the folder has none."""
    path = folder / CARD
    if not path.is_file():
        return None
    card, found = path.read_bytes(), newest_evaluation(client.jobs, resource)
    return card if found is None else with_evaluation(card.decode(), *found).encode()


def with_evaluation(card: str, job: str, output: JobOutput) -> str:
    """A stored card, with a section for the evaluation that `job` made."""
    evaluation = output.evaluation or {}
    section = "\n".join(
        (
            "## Evaluation",
            "",
            f"On held-out rows of the data set `{evaluation.get('dataset', '')}`, by job `{job}`; "
            "intervals are of 95 %.",
            "",
            "| figure | value | 95 % | of | meaning |",
            "|---|---|---|---|---|",
            *_rows(output),
            "",
        )
    )
    at = min((place for mark in _BEFORE if (place := card.find(mark)) >= 0), default=len(card))
    return f"{card[:at]}\n{section}{card[at:]}"


def _rows(output: JobOutput) -> Iterator[str]:
    """Reports of older releases have numbers alone."""
    known = {each.name: each for each in output.results if not each.stratum}
    numbers = (output.evaluation or {}).get("metrics", {})
    for name, why in _FIGURES.items():
        if name in known:
            yield _row(known[name], why)
        elif name in numbers:
            yield f"| {name} | {figure(numbers[name])} | | | {why} |"


def _row(result: EvaluationMetric, why: str) -> str:
    between = ""
    if result.low is not None and result.high is not None:
        between = f"{figure(result.low)} … {figure(result.high)}"
    of = f"{count(result.n)} {result.counted}"
    return f"| {result.name} | {figure(result.value)} {_unit(result)}| {between} | {of} | {why} |"


def _unit(result: EvaluationMetric) -> str:
    return f"{result.unit} " if result.unit == "nats" else ""
