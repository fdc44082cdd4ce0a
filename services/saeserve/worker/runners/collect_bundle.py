"""Writes the bundle of a finished pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from saeserve.core.features.collecting import Collecting
from saeserve.core.features.neighbours import NEIGHBOURS, decoder_neighbours, moved_logits
from saeserve.core.features.schema import DATABASE_FILE, BundleManifest
from saeserve.core.features.writer import BundleExtras, RankedRows, write_database, write_tokens
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.unembedding import CONVENTION, folded_unembedding
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.collect_subject import CollectSubject


def write_bundle(
    context: RunContext, subject: CollectSubject, passed: Collecting, folder: Path
) -> None:
    """Write all files into `folder`, which is empty. Raises NoSpaceError, JobStopped and
    DataMismatchError where logits are asked for and the model does not write where they are."""
    W_dec_FD = subject.source.model.W_dec
    context.report.log("looking for neighbours of each feature")
    near = decoder_neighbours(W_dec_FD, context.check_stop) if len(W_dec_FD) > 1 else None
    logits = _logits(context, subject) if subject.spec.logits else None
    tokens, sequences = passed.tokens()
    manifest = _manifest(context, subject, passed).model_copy(
        update={"tokens": len(tokens), "sequences": len(sequences)}
    )
    if logits is not None:
        manifest = manifest.model_copy(update={"logits": CONVENTION})
    texts = _texts(subject, passed, logits)
    write_tokens(folder, tokens, sequences)
    extras = BundleExtras(texts, near, logits)
    write_database(folder / DATABASE_FILE, manifest, passed.state, extras)


def _logits(context: RunContext, subject: CollectSubject) -> RankedRows:
    context.report.log("looking for tokens whose logits each feature moves")
    known = subject.dataset.manifest.language_model
    assert known is not None, "the tokenizer was loaded from it"
    model = subject.source.model
    language_model = LanguageModel.load(
        context.roots.resolve(known.path), known.gguf_file, model.device, "float32"
    )
    unembedding_VD = folded_unembedding(language_model, model.config.outputs)
    return moved_logits(model.W_dec, unembedding_VD, context.check_stop)


def _manifest(context: RunContext, subject: CollectSubject, passed: Collecting) -> BundleManifest:
    settings, data = passed.state.settings, subject.dataset.manifest
    names = ("top", "uniform", "intervals", "per_interval", "window", "entries", "seed", "d_sae")
    first = subject.inputs[0]
    return BundleManifest.model_validate(
        {name: getattr(settings, name) for name in (*names, "lowest_exponent")}
        | {
            "model": f"{subject.version.name}@{subject.version.version}",
            "model_sha256": subject.version.content_sha256,
            "dataset": data.name,
            "dataset_sha256": data.sha256,
            "source": ",".join(entry.name for entry in subject.inputs),
            "hook": f"{first.hook}.{first.layer}" if first.hook else "",
            "language_model": data.language_model.path if data.language_model else "",
            "job": context.submission.id,
            "rows": passed.rows_kept,
            "left_out": passed.rows_done - passed.rows_kept,
            "tokens": 0,
            "sequences": 0,
            "neighbours": min(NEIGHBOURS, settings.d_sae - 1),
        }
    )


def _texts(
    subject: CollectSubject, passed: Collecting, logits: RankedRows | None
) -> Mapping[int, str]:
    """The text of each token of the pass and of the logits."""
    named = np.unique(passed.layout.tokens)
    if logits is not None:
        named = np.union1d(named, logits.ids)
    known = named[(named >= 0)].tolist()
    return {token: subject.tokenizer.text([token]) for token in known}
