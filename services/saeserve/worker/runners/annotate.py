"""Runs an annotate job: which features fire on each token of some texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.core.ops.sparse import SparseRows
from saeserve.core.specs.text_jobs import AnnotateSpec
from saeserve.errors import SpecError
from saeserve.harvest.steering import Positions
from saeserve.jobs.record import Output
from saeserve.worker.report import Scale
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.text_subject import TextSubject, open_texts


def run(context: RunContext) -> Completed:
    """Every text is checked before the first is run."""
    spec = AnnotateSpec.parse(context.submission.resolved_spec["annotate"], "annotate")
    subject = open_texts(context, spec, "annotate")
    texts = [_contexts(subject, spec, index) for index in range(len(spec.texts))]
    found: list[dict[str, Any]] = []
    for index, contexts in enumerate(texts):
        tokens: list[dict[str, Any]] = []
        for part in contexts:
            context.check_stop()
            tokens += _annotated(subject, part, spec.features)
        found.append({"tokens": tokens})
        context.report.metrics(index + 1, {}, Scale("texts", len(texts)))
    count = sum(len(text["tokens"]) for text in found)
    output = Output(annotation={"texts": found}, metrics={"tokens": float(count)})
    return Completed(outputs=(output,), steps=len(found))


def _contexts(subject: TextSubject, spec: AnnotateSpec, index: int) -> list[list[int]]:
    """The text as sequences, each with BOS in front where the data set has it there. Raises
    SpecError for one that is too long, unless it is to be split."""
    field = f"annotate.texts.{index}"
    tokens = subject.tokens(spec.texts[index], field)
    room = subject.tokenization.context_length - len(subject.front)
    if len(tokens) > room and spec.long_texts == "refuse":
        raise SpecError(
            field,
            f"has {len(tokens)} tokens; contexts of data set {spec.dataset} have room for {room}",
            remedy="shorten it, or set long_texts = split",
        )
    return [
        [*subject.front, *tokens[start : start + room]] for start in range(0, len(tokens), room)
    ]


def _annotated(subject: TextSubject, tokens: list[int], most: int) -> list[dict[str, Any]]:
    """The tokens of a sequence but BOS; those that make no rows have no features."""
    ids_ST = torch.tensor([tokens])
    captured = subject.language_model.capture(ids_ST, subject.reads)
    x_TD = torch.cat([captured[site.source][0] for site in subject.reads], dim=-1)
    front = len(subject.front)
    positions = Positions(special_ids=subject.special_ids, bos=bool(front))
    rows_T = positions.of(tokens, 0)
    features = subject.model.encode(x_TD)
    beyond_T = subject.beyond(x_TD)
    return [
        {
            "text": subject.language_model.tokenizer.text([token]),
            "token": token,
            "beyond_norm_bound": bool(beyond_T[place]) and bool(rows_T[place]),
            **(_strongest(features, place, most) if rows_T[place] else {}),
        }
        for place, token in enumerate(tokens)
        if place >= front
    ]


def _strongest(features: SparseRows, row: int, most: int) -> dict[str, list[Any]]:
    part = sparse.slice_rows(features, row, row + 1)
    order_N: Tensor = part.values.abs().argsort(descending=True, stable=True)[:most]
    return {
        "features": [int(latent) for latent in part.latents[order_N]],
        "values": [float(value) for value in part.values[order_N]],
    }
