"""Writes the bundle of a finished pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saeserve.core.features.collecting import Collecting
from saeserve.core.features.heldout import Heldout
from saeserve.core.features.labelling import entry_of, label_features
from saeserve.core.features.neighbours import NEIGHBOURS, decoder_neighbours, moved_logits
from saeserve.core.features.schema import DATABASE_FILE, BundleManifest
from saeserve.core.features.writer import BundleExtras, RankedRows, write_database, write_tokens
from saeserve.core.labels.label import Label, Labels, visible
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.unembedding import CONVENTION, folded_unembedding
from saeserve.jobs.record import JobWarning
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.collect_subject import CollectSubject

NO_LABELS = "NO_LABELS"


@dataclass(frozen=True)
class Written:
    """What there is to say of a bundle."""

    figures: dict[str, float]
    warnings: tuple[JobWarning, ...]


def write_bundle(
    context: RunContext, subject: CollectSubject, passed: Collecting, folder: Path
) -> Written:
    """Write all files into `folder`, which is empty. Raises NoSpaceError, JobStopped and
    DataMismatchError where logits are asked for and the model does not write where they are."""
    W_dec_FD = subject.source.model.W_dec
    context.report.log("looking for neighbours of each feature")
    near = decoder_neighbours(W_dec_FD, context.check_stop) if len(W_dec_FD) > 1 else None
    logits = _logits(context, subject) if subject.spec.logits else None
    tokens, sequences = passed.tokens()
    heldout = _heldout(subject)
    labels = None
    if heldout is not None:
        context.report.log("labelling features, and scoring labels on held-out rows")
        labels = label_features(
            passed.state, tokens, sequences, logits, heldout, context.check_stop
        )
    entry = None if labels is None or heldout is None else entry_of(labels, heldout)
    manifest = _manifest(context, subject, passed).model_copy(
        update={
            "tokens": len(tokens),
            "sequences": len(sequences),
            "logits": None if logits is None else CONVENTION,
            "labels": entry,
        }
    )
    texts = _texts(subject, passed, logits)
    write_tokens(folder, tokens, sequences)
    extras = BundleExtras(texts, near, logits, _words(labels, texts))
    write_database(folder / DATABASE_FILE, manifest, passed.state, extras)
    return Written(_figures(manifest), _warnings(context, subject))


def _heldout(subject: CollectSubject) -> Heldout | None:
    """The rows that labels are scored on; None where there are none, or none are wanted."""
    spec = subject.spec
    if not spec.label_tokens or not subject.dataset.manifest.heldout_rows:
        return None
    return Heldout(subject.source, spec.label_tokens, spec.seed)


def _words(labels: Labels | None, texts: Mapping[int, str]) -> Iterator[Label]:
    if labels is not None:
        yield from labels.in_words(lambda token: visible(texts.get(token, ""), token))


def _figures(manifest: BundleManifest) -> dict[str, float]:
    entry = manifest.labels
    return {} if entry is None else {"labelled_fraction": entry.features / manifest.d_sae}


def _warnings(context: RunContext, subject: CollectSubject) -> tuple[JobWarning, ...]:
    if not subject.spec.label_tokens or subject.dataset.manifest.heldout_rows:
        return ()
    warning = JobWarning(
        code=NO_LABELS,
        message=f"data set {subject.spec.dataset} holds no rows out, so features have no labels: "
        "a label is scored on rows that had no part in it; harvest one with heldout_fraction "
        "above 0, or set label_tokens = 0",
    )
    context.report.warning(0, warning.code, warning.message)
    return (warning,)


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
