"""Our models of every form, written, and loaded by the library that they were written for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from tests.fakes.sae import random_form, random_model, random_preprocessing, row_norms
from tests.interop.compare import Functions, Outcome, compare, rows
from tests.interop.libraries import LOADERS

from saeserve.core.export.fold import Side, fold_between
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage, RowNorm, TopKActivation
from saeserve.core.peers.registry import EXPORTERS, export_model
from saeserve.errors import FormatError

D, D_SAE, K, D_OUT = 24, 96, 6, 20


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Every form in every format: compared where it can be written, refused by name elsewhere."""
    for form, model in forms().items():
        for format in EXPORTERS:
            target = folder / format / form.replace(" ", "-").replace("/", "-")
            try:
                export_model(model, format, target)
            except FormatError as refusal:
                note = refusal.message.partition(": ")[2]
                yield Outcome("export", format, form, note=f"refused: {note}")
                continue
            theirs = LOADERS[format](target)
            ours = Functions(model.encode_dense, model.reconstruct)
            found = compare(ours, theirs, rows(model.config.d_in))
            yield Outcome("export", format, form, *found)


def forms() -> dict[str, InferenceModel]:
    """One model of each form that we publish."""
    return {
        "topk": random_model("topk", D, D_SAE, K),
        "topk by magnitude": _by_magnitude(),
        "topk, layer norm": _normalising(),
        "threshold (jumprelu, gated, batchtopk, matryoshka)": random_model("threshold", D, D_SAE),
        "threshold with dead latents": _with_dead("threshold"),
        "relu": random_model("relu", D, D_SAE),
        "relu with dead latents": _with_dead("relu"),
        "transcoder, topk": _transcoder("topk", D, skip=False),
        "transcoder, topk, skip": _transcoder("topk", D, skip=True),
        "transcoder, threshold": _transcoder("threshold", D_OUT, skip=False),
        "transcoder, threshold, skip": _transcoder("threshold", D_OUT, skip=True),
        "transcoder, relu": _transcoder("relu", D_OUT, skip=False),
        "transcoder, relu, skip": _transcoder("relu", D_OUT, skip=True),
    }


def _by_magnitude() -> InferenceModel:
    model = random_model("topk", D, D_SAE, K)
    config = model.config.model_copy(update={"activation": TopKActivation(k=K, post="abs")})
    return dataclasses.replace(model, config=config)


def _normalising() -> InferenceModel:
    model = random_model("topk", D, D_SAE, K)
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
    return dataclasses.replace(model, config=model.config.model_copy(update={"row_norm": norm}))


def _with_dead(kind: str) -> InferenceModel:
    form = random_form("threshold" if kind == "threshold" else "relu", D, D_SAE)
    form.W_dec_FO[5] = 0.0
    side = Side(("resid_post.3",), random_preprocessing(D, 1))
    return fold_between(form, side, side, architecture=kind, lineage=Lineage())


def _transcoder(kind: str, d_out: int, *, skip: bool) -> InferenceModel:
    form = random_form("topk" if kind == "topk" else "threshold", D, D_SAE, K)
    draws = torch.Generator().manual_seed(3)
    W_dec_FO = torch.randn(D_SAE, d_out, generator=draws)
    form = dataclasses.replace(
        form,
        W_dec_FO=W_dec_FO / row_norms(W_dec_FO)[:, None],
        b_dec_O=torch.randn(d_out, generator=draws),
        threshold_F=form.threshold_F if kind == "threshold" else None,
        W_skip_OD=torch.randn(d_out, D, generator=draws) if skip else None,
    )
    source = Side(("resid_post.3",), random_preprocessing(D, 1))
    target = Side(("mlp_out.4",), random_preprocessing(d_out, 2))
    return fold_between(form, source, target, architecture=kind, lineage=Lineage())
