"""What a collect job is about: a model, the rows that it reads, and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.export.format import load_model
from saeserve.core.features.rows import RowSource
from saeserve.core.features.sizes import collect_bytes
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import SourceEntry
from saeserve.core.specs.jobs import CollectSpec
from saeserve.errors import DataMismatchError
from saeserve.harvest.loading import load_tokenizer
from saeserve.harvest.tokenizer import Tokenizer
from saeserve.registry.verifying import verified
from saeserve.registry.version import ModelVersion
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import open_dataset
from saeserve.worker.runners.devices import device_of, settle_torch
from saeserve.worker.runners.evaluate_subject import norm_cut_of

_ENTRIES = 64
"""Codes a row that memory is planned for, where the model has no k."""


@dataclass(frozen=True)
class CollectSubject:
    """A model, and the rows of the data set that it encodes."""

    spec: CollectSpec
    version: ModelVersion
    source: RowSource
    inputs: tuple[SourceEntry, ...]
    tokenizer: Tokenizer

    @property
    def dataset(self) -> ShardedDataset:
        """The data set that is read."""
        return self.source.dataset

    @property
    def vocabulary(self) -> int:
        """Tokens that have a row in the token index."""
        return self.tokenizer.size

    @property
    def rows(self) -> int:
        """Rows of the pass, about: it ends with a sequence."""
        every = self.dataset.manifest.rows
        return min(self.spec.max_tokens or every, every)

    @property
    def memory_bytes(self) -> int:
        """What the pass needs."""
        config = self.source.model.config
        entries = config.selecting.k if config.selecting else _ENTRIES
        sizes = config.d_sae, self.rows, entries, self.source.model.size_bytes
        return collect_bytes(*sizes, labels=bool(self.spec.label_tokens))


def open_subject(context: RunContext) -> CollectSubject:
    """Raises NotFound, FailedPrecondition, FormatError, DataError and DataMismatchError."""
    spec = CollectSpec.parse(context.submission.resolved_spec["collect"], "collect")
    settle_torch(context.order.torch_threads)
    version = context.models.resolve(spec.model)
    dataset = open_dataset(context, spec.dataset)
    tokenizer = _tokenizer(context, dataset)
    model = load_model(verified(version.folder)).to(device_of(context.submission.resource_class))
    config = model.config
    sources = judged_sources(config, spec.source, dataset.manifest, lambda n, _: dataset.source(n))
    check_widths(version.resource, config, sources, spec.dataset)
    inputs = sources[: len(config.inputs)]
    names = tuple(entry.name for entry in inputs)
    cut = norm_cut_of(config.lineage)
    source = RowSource(dataset, names, model, cut, spec.max_tokens)
    return CollectSubject(spec, version, source, inputs, tokenizer)


def _tokenizer(context: RunContext, dataset: ShardedDataset) -> Tokenizer:
    known = dataset.manifest.language_model
    if known is None or dataset.manifest.tokenization is None:
        raise DataMismatchError(
            f"data set {dataset.manifest.name} was not harvested from text, so its rows have no "
            "tokens",
            remedy="collect on a data set that a harvest made",
        )
    return load_tokenizer(context.roots.resolve(known.path), known.gguf_file)
