"""What generate and annotate jobs are about: a model, a language model, and texts as its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.export.format import load_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import TokenizationEntry
from saeserve.core.specs.sites import SiteSpec
from saeserve.core.specs.text_jobs import AnnotateSpec, GenerateSpec
from saeserve.errors import DataMismatchError, SpecError
from saeserve.harvest.language_model import LanguageModel
from saeserve.registry.verifying import verified
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import open_dataset
from saeserve.worker.runners.devices import device_of, settle_torch
from saeserve.worker.runners.language_models import language_model_of, site_of


@dataclass(frozen=True)
class TextSubject:
    """A dictionary, and the language model in which its sources are."""

    model: InferenceModel
    language_model: LanguageModel
    tokenization: TokenizationEntry
    reads: tuple[SiteSpec, ...]
    writes: tuple[SiteSpec, ...]

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that make no rows."""
        return self.tokenization.special_token_ids or ()

    @property
    def front(self) -> list[int]:
        """What stands before every sequence: BOS, or nothing."""
        bos = self.tokenization.bos_token_id
        return [] if bos is None else [bos]

    def tokens(self, text: str, field: str) -> list[int]:
        """The tokens of a text, without what stands in front. Raises SpecError where there are
        none."""
        found = [int(token) for token in self.language_model.tokenizer.ids(text)]
        if not found:
            raise SpecError(field, "holds no token", remedy="give it some text")
        return found

    def beyond(self, x_BD: Tensor) -> Tensor:
        """bool [B]: rows of which a source has a norm beyond the bound of the model."""
        beyond_B = torch.zeros(len(x_BD), dtype=torch.bool, device=x_BD.device)
        for source in self.model.config.inputs:
            if source.norm_bound is not None:
                part_BD = x_BD[:, source.offset : source.offset + source.d].double()
                beyond_B |= part_BD.square().sum(1) > source.norm_bound**2
        return beyond_B


def open_texts(context: RunContext, spec: GenerateSpec | AnnotateSpec, kind: str) -> TextSubject:
    """Raises NotFound, FailedPrecondition, FormatError, DataError, DataMismatchError and
    SpecError."""
    settle_torch(context.order.torch_threads)
    device = device_of(context.submission.resource_class)
    version = context.models.resolve(spec.model)
    model = load_model(verified(version.folder)).to(device)
    dataset = open_dataset(context, spec.dataset)
    reads, writes = _sites(model, spec, kind, dataset, version.resource)
    tokenization = dataset.manifest.tokenization
    if tokenization is None:
        raise DataMismatchError(
            f"data set {spec.dataset} was not harvested from text",
            remedy="name a harvested data set",
        )
    language_model = language_model_of(context, dataset.manifest, device)
    return TextSubject(model, language_model, tokenization, reads, writes)


def _sites(
    model: InferenceModel,
    spec: GenerateSpec | AnnotateSpec,
    kind: str,
    dataset: ShardedDataset,
    resource: str,
) -> tuple[tuple[SiteSpec, ...], tuple[SiteSpec, ...]]:
    """The sites that the model reads, and those that it writes."""
    config = model.config
    sources = judged_sources(
        config, spec.source, dataset.manifest, lambda n, _: dataset.source(n), f"{kind}.source"
    )
    check_widths(resource, config, sources, spec.dataset)
    sites = tuple(site_of(source) for source in sources)
    return sites[: len(config.inputs)], sites[len(config.inputs) :] or sites
