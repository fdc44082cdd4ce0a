"""What an evaluate job is about: a model, a data set, and the rows held out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.export.format import load_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import MASSIVE_NORM, SourceEntry
from saeserve.core.formats.model import Lineage
from saeserve.core.specs.jobs import EvaluateSpec
from saeserve.errors import DataError
from saeserve.registry.verifying import verified
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import heldout, open_dataset
from saeserve.worker.runners.devices import device_of, settle_torch


@dataclass(frozen=True)
class Subject:
    """A model and the held-out rows that it is evaluated on."""

    spec: EvaluateSpec
    resource: str
    """models/<name>/versions/<n>."""
    content_sha256: str
    model: InferenceModel
    dataset: ShardedDataset
    sources: tuple[SourceEntry, ...]
    """Whose columns make a row: the model's inputs, then a transcoder's target."""
    norm_cut: float
    """Rows above this many median norms are left out of the headline (0: none)."""

    @property
    def source(self) -> SourceEntry:
        """The first input; the only one unless the model is a crosscoder."""
        return self.sources[0]

    @property
    def written(self) -> tuple[SourceEntry, ...]:
        """What the model's output stands for: a transcoder's target, else its inputs."""
        return self.sources[len(self.model.config.inputs) :] or self.sources

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `sources`."""
        return tuple(entry.name for entry in self.sources)


def open_subjects(context: RunContext) -> list[Subject]:
    """All models of the job, with one data set.

    Raises NotFound, FailedPrecondition, FormatError, DataError and DataMismatchError."""
    spec = EvaluateSpec.parse(context.submission.resolved_spec["evaluate"], "evaluate")
    settle_torch(context.order.torch_threads)
    dataset = open_dataset(context, spec.dataset)
    return [_open(context, spec, dataset, reference) for reference in spec.references]


def _open(
    context: RunContext, spec: EvaluateSpec, dataset: ShardedDataset, reference: str
) -> Subject:
    version = context.models.resolve(reference)
    model = load_model(verified(version.folder)).to(device_of(context.submission.resource_class))
    config = model.config
    sources = judged_sources(config, spec.source, dataset.manifest, lambda n, _: dataset.source(n))
    check_widths(version.resource, config, sources, spec.dataset)
    if not dataset.manifest.heldout_rows:
        raise DataError(
            f"data set {spec.dataset} holds no rows out",
            remedy="make one with heldout_fraction above 0",
        )
    cut = norm_cut_of(config.lineage)
    return Subject(spec, version.resource, version.content_sha256, model, dataset, sources, cut)


def differences(subject: Subject) -> Iterator[tuple[str, str]]:
    """Code and text of each way in which the rows are not those that the model was made for."""
    config, manifest = subject.model.config, subject.dataset.manifest
    made_for = [source.name for source in config.inputs]
    made_for += [source.name for source in config.outputs] if config.transcodes else []
    if tuple(made_for) != subject.names:
        text = f"the model reads {', '.join(made_for)}, and the rows are {', '.join(subject.names)}"
        yield "OTHER_SOURCE", text
    known = config.lineage.dataset_sha256
    if known and known != manifest.sha256:
        yield (
            "OTHER_DATASET",
            f"the model was trained on data set {config.lineage.dataset} as it was then, and the "
            f"figures are of {manifest.name}: held-out rows may have been trained on",
        )


def norm_cut_of(lineage: Lineage) -> float:
    """The cut that the model was trained under; of unknown models the usual one."""
    preprocess = cast("dict[str, float]", lineage.spec.get("preprocess", {}))
    return preprocess.get("norm_cut", MASSIVE_NORM)


def mean_of(context: RunContext, subject: Subject) -> Tensor:
    """Mean of the held-out rows of the headline, float64 [d_out]: what mean ablation puts."""
    d_out = sum(source.d for source in subject.written)
    total_D = torch.zeros(d_out, dtype=torch.float64)
    count = 0
    for rows in heldout(
        context, subject.dataset, subject.names, subject.norm_cut, subject.spec.max_rows
    ):
        total_D += rows.x_BD[:, -d_out:].double().sum(0)
        count += len(rows.document)
    return total_D / count
