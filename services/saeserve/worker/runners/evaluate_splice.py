"""Tier 1 of an evaluation: reconstructions spliced into the language model on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from saeserve.core.evaluation.arms import Begun, Nats, Replace
from saeserve.core.evaluation.loss_recovered import Recovering, recover
from saeserve.core.evaluation.metric import Metric
from saeserve.core.evaluation.splice_metrics import splice_figures, splice_metrics
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import LossRecoveredSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.row_rule import RowRule
from saeserve.harvest.splice import Between, Splicer
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.evaluate_baselines import Compared, compared
from saeserve.worker.runners.evaluate_memory import Memory
from saeserve.worker.runners.evaluate_rows import RowFigures, SplicedFigures
from saeserve.worker.runners.evaluate_subject import Subject
from saeserve.worker.runners.language_models import language_model_of, site_of


def recovered(
    context: RunContext, memory: Memory, subjects: Sequence[Subject], rows: Sequence[RowFigures]
) -> list[SplicedFigures]:
    """Figures of each model; rows of massive norm stay as they are
    (docs/DESIGN.md, "Massive activations")."""
    spec = subjects[0].spec
    wanted = spec.loss_recovered or LossRecoveredSpec()
    model = _language_model(context, memory.manifest, subjects[0])
    against = [
        compared(context, memory, subject, own, wanted, model.compute_dtype)
        for subject, own in zip(subjects, rows, strict=True)
    ]
    recovering = [
        Recovering(subject.model, each.baselines, massive_above=_massive_above(subject))
        for subject, each in zip(subjects, against, strict=True)
    ]
    recover(recovering, _begun(context, subjects, model, wanted))
    for each, own in zip(against, recovering, strict=True):
        each.keep(memory, own.tables)
    return [_figures(own, each, spec.seed) for own, each in zip(recovering, against, strict=True)]


def _figures(recovering: Recovering, against: Compared, seed: int) -> SplicedFigures:
    tables = recovering.tables
    figures = splice_figures(tables)
    positions = int(tables["tokens"].values().sum())
    figures |= {"spliced_positions": positions, "spliced_massive_rows": recovering.massive_rows}
    metrics = splice_metrics(tables, seed)
    metrics.append(
        Metric(
            "baseline_k", "baseline_k/1", against.k, "components and latents", positions,
            "predicted tokens", seed,
        )
    )  # fmt: skip
    return SplicedFigures(figures, metrics)


def _begun(
    context: RunContext,
    subjects: Sequence[Subject],
    model: LanguageModel,
    wanted: LossRecoveredSpec,
) -> Iterator[Sequence[Begun]]:
    """Clean passes over batches of held-out tokens."""
    first = subjects[0]
    tokenization = first.dataset.manifest.tokenization
    bos = tokenization is not None and tokenization.bos == "prepend"
    written = {source.name for subject in subjects for source in subject.written}
    context.report.log(
        f"splicing reconstructions at {', '.join(sorted(written))} into the language model, which "
        f"computes in {model.compute_dtype}"
    )
    sites = [_sites(subject) for subject in subjects]
    splicer = Splicer(model, sites, bos, RowRule.of(tokenization))
    for tokens_ST in heldout_sequences(
        first.dataset.folder,
        first.dataset.manifest,
        max_tokens=wanted.max_tokens,
        batch=wanted.batch_sequences,
    ):
        context.check_stop()
        yield [_stopping(context, begun) for begun in splicer.begin(tokens_ST)]


def _stopping(context: RunContext, begun: Begun) -> Begun:
    """A begun batch whose passes, which may take long, show that the work moves on."""

    def run(put: Replace) -> Nats:
        context.check_stop()
        return begun.run(put)

    return replace(begun, run=run)


def _language_model(
    context: RunContext, manifest: DatasetManifest, subject: Subject
) -> LanguageModel:
    model = language_model_of(context, manifest, subject.model.device)
    if manifest.compute_dtype is None:
        message = (
            f"data set {manifest.name} does not say in which type its language model computed; "
            f"loss recovered is measured in {model.compute_dtype}"
        )
        context.report.warning(0, "COMPUTE_DTYPE_UNKNOWN", message)
    return model


def _sites(subject: Subject) -> SiteSpec | Between:
    sites = tuple(site_of(source) for source in subject.sources)
    inputs = sites[: len(subject.model.config.inputs)]
    return sites[0] if len(sites) == 1 else Between(inputs, sites[len(inputs) :] or inputs)


def _massive_above(subject: Subject) -> list[float]:
    return [subject.norm_cut * source.median_norm or math.inf for source in subject.sources]
