"""Loss recovered: reconstructions spliced into the language model on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from saeserve.core.evaluation.loss_recovered import loss_recovered
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import LossRecoveredSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.row_rule import RowRule
from saeserve.harvest.splice import Between
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.evaluate_subject import Subject, mean_of
from saeserve.worker.runners.language_models import language_model_of, site_of


def recovered(context: RunContext, subject: Subject) -> dict[str, float]:
    """Figures of `loss_recovered`; rows of massive norm stay as they are
    (docs/DESIGN.md, "Massive activations")."""
    wanted = subject.spec.loss_recovered or LossRecoveredSpec()
    manifest = subject.dataset.manifest
    model = _language_model(context, manifest, subject)
    tokenization = manifest.tokenization
    bos = tokenization is not None and tokenization.bos == "prepend"
    rule = RowRule.of(tokenization)
    sites = _sites(subject)
    context.report.log(
        f"splicing reconstructions at {_written(subject)} into the language model, which "
        f"computes in {model.compute_dtype}"
    )
    result = loss_recovered(
        subject.model,
        model.splice(sites, bos, rule),
        _batches(context, subject, wanted),
        mean_D=mean_of(context, subject),
        massive_above=_massive_above(subject),
        compare=model.compare(sites, bos, rule),
    )
    figures = result.metrics()
    figures["spliced_positions"] = figures.pop("positions")
    figures["spliced_massive_rows"] = figures.pop("massive_rows")
    return figures


def _batches(context: RunContext, subject: Subject, wanted: LossRecoveredSpec) -> Iterator[Tensor]:
    for tokens_ST in heldout_sequences(
        subject.dataset.folder,
        subject.dataset.manifest,
        max_tokens=wanted.max_tokens,
        batch=wanted.batch_sequences,
    ):
        context.check_stop()
        yield tokens_ST


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


def _written(subject: Subject) -> str:
    return ", ".join(source.name for source in subject.written)


def _massive_above(subject: Subject) -> list[float]:
    return [subject.norm_cut * source.median_norm or math.inf for source in subject.sources]
