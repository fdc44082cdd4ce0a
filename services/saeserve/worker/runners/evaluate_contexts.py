"""Where features fire most, with the text around each hit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.evaluation.contexts import FeatureHits, Hit, top_contexts
from saeserve.harvest.contexts import ContextText, context_text
from saeserve.harvest.loading import load_tokenizer
from saeserve.harvest.stored_contexts import read_contexts
from saeserve.harvest.tokenizer import Tokenizer
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import heldout
from saeserve.worker.runners.evaluate_subject import Subject

_TOKENS_EITHER_SIDE = 16


def feature_contexts(context: RunContext, subject: Subject) -> list[dict[str, Any]]:
    """Features as the API's FeatureContexts; without a tokenizer the text stays empty."""
    context.report.log("looking for top-activating contexts")
    spec = subject.spec
    blocks = heldout(context, subject.dataset, subject.names, subject.norm_cut, spec.max_rows)
    d_in = subject.model.config.d_in
    rows = (dataclasses.replace(block, x_BD=block.x_BD[:, :d_in]) for block in blocks)
    found = top_contexts(subject.model, rows, spec.context_features, spec.contexts_per_feature)
    texts = _Texts(subject.dataset, _tokenizer(context, subject.dataset), found)
    return [_feature(feature, subject.dataset, texts) for feature in found]


def _feature(found: FeatureHits, dataset: ShardedDataset, texts: _Texts) -> dict[str, Any]:
    return {
        "feature": found.feature,
        "frequency": found.frequency,
        "contexts": [_context(hit, dataset, texts.around(hit)) for hit in found.hits],
    }


def _context(hit: Hit, dataset: ShardedDataset, text: ContextText) -> dict[str, Any]:
    return {
        "before": text.before,
        "token": text.token,
        "after": text.after,
        "activation": hit.activation,
        "document": dataset.manifest.documents[hit.document].origin,
    }


def _tokenizer(context: RunContext, dataset: ShardedDataset) -> Tokenizer | None:
    known = dataset.manifest.language_model
    if known is None:
        return None
    return load_tokenizer(context.roots.resolve(known.path), known.gguf_file)


class _Texts:
    """The sequences that hits lie in, read from the shards' token ids in one pass."""

    def __init__(
        self, dataset: ShardedDataset, tokenizer: Tokenizer | None, found: Iterable[FeatureHits]
    ) -> None:
        self._tokenizer = tokenizer
        wanted = {hit.sequence for feature in found for hit in feature.hits if hit.sequence >= 0}
        self._sequences = _sequences(dataset, wanted if tokenizer else set())

    def around(self, hit: Hit) -> ContextText:
        """Tokens on either side of the one that fired; empty where no tokenizer decodes them."""
        tokens = self._sequences.get(hit.sequence)
        if self._tokenizer is None or tokens is None:
            return ContextText("", "", "")
        positions = sorted(tokens)
        ids: Sequence[int] = [tokens[position] for position in positions]
        place = positions.index(hit.position)
        return context_text(self._tokenizer, ids, place, _TOKENS_EITHER_SIDE)


def _sequences(dataset: ShardedDataset, wanted: set[int]) -> Mapping[int, dict[int, int]]:
    """Token id by position, of each wanted sequence, without the BOS put in front."""
    if dataset.manifest.contexts is not None:
        return _stored(dataset, wanted)
    found: dict[int, dict[int, int]] = {sequence: {} for sequence in wanted}
    for index in range(len(dataset.manifest.shards)):
        with dataset.shard(index) as shard:
            sequences, positions, tokens = (
                shard.column(name) for name in ("sequence", "position", "token_id")
            )
        for row in np.flatnonzero(np.isin(sequences, list(wanted))):
            found[int(sequences[row])][int(positions[row])] = int(tokens[row])
    return found


def _stored(dataset: ShardedDataset, wanted: set[int]) -> Mapping[int, dict[int, int]]:
    tokenization = dataset.manifest.tokenization
    front = tokenization is not None and tokenization.bos_token_id is not None
    stored = read_contexts(dataset.folder, dataset.manifest) if wanted else ()
    return {
        sequence: {place: int(tokens[place]) for place in range(int(front), len(tokens))}
        for sequence, tokens in stored
        if sequence in wanted
    }
