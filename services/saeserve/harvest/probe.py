"""Passes over a few tokens that show how a layer is built and what its rows depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import SpecError
from saeserve.harvest.anatomy import Anatomy, study
from saeserve.harvest.layout import layer_at, text_setting
from saeserve.harvest.recording import Recorder
from saeserve.harvest.sequences import pad
from saeserve.harvest.tokenizer import Tokenizer

_TEXT = (
    "The quick brown fox jumps over the lazy dog, and 12 of 340 birds (5 %) sing: "
    '"What is 7 + 8?" In 1969 people walked on the moon; x = f(y) returns None.'
)
_LENGTH = 16
_ROUNDING = {"float32": 1e-3, "bfloat16": 0.05}
"""Relative difference of a row that sums in another order may make, by the type of products."""
_DIFFERENT = 8
"""A text of fewer different tokens than this is replaced by tokens from the whole vocabulary."""


class Model(Protocol):
    """What the probe asks of a language model."""

    model: nn.Module
    tokenizer: Tokenizer

    compute_dtype: Literal["float32", "bfloat16"]

    def forward(self, tokens_ST: Tensor) -> Tensor:
        """Logits [S, T, vocabulary]."""
        ...

    def capture(self, tokens_ST: Tensor, sites: Sequence[SiteSpec]) -> dict[str, Tensor]:
        """Activations by source name, float32 [S, T, d]."""
        ...


def study_layer(model: Model, layer: int) -> Anatomy:
    """The parts of layer `layer`, from a pass over a few tokens.

    Raises SpecError for a layer that does not exist.
    """
    tokens_ST = probe_tokens(model)
    module = layer_at(model.model, layer)
    recorder = Recorder(module, tokens_ST.shape)
    try:
        model.forward(tokens_ST)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _does_not_run(model, error) from error
    finally:
        for handle in recorder.handles:
            handle.remove()
    return study(recorder.calls, _scales(model.model))


def _does_not_run(model: Model, error: Exception) -> SpecError:
    low = model.compute_dtype == "bfloat16"
    return SpecError(
        "compute_dtype" if low else "language_model",
        f"{type(model.model).__name__} does not run on plain text with products in "
        f"{model.compute_dtype}: {error}",
        remedy="set compute_dtype = float32" if low else "use another model",
    )


def probe_tokens(model: Model) -> Tensor:
    """int64 [2, 16]: two sequences of plain text, the second of half the length and padded."""
    ids = [int(token) for token in model.tokenizer.ids(_TEXT)[: 2 * _LENGTH]]
    if len(set(ids)) < _DIFFERENT:
        step = cast("int", text_setting(model.model, "vocab_size")) // (2 * _LENGTH)
        ids = [step * place for place in range(2 * _LENGTH)]
    pieces = [ids[:_LENGTH], (ids[_LENGTH:] or ids)[: _LENGTH // 2]]
    return pad(np.asarray(piece, np.int32) for piece in pieces)


def check_rows(model: Model, sites: Sequence[SiteSpec]) -> None:
    """Raise SpecError, naming the site, where its rows depend on what follows a token or on
    what shares a batch with its sequence: other sequences, padding."""
    tokens_ST = probe_tokens(model)
    half = tokens_ST.shape[1] // 2
    together = model.capture(tokens_ST, sites)
    alone = [model.capture(tokens_ST[i : i + 1, :half], sites) for i in range(len(tokens_ST))]
    for site in sites:
        expected = torch.cat([x[site.source] for x in alone])
        error = _relative_error(together[site.source][:, :half], expected)
        if error > _ROUNDING[model.compute_dtype]:
            raise SpecError(
                "sites.hook",
                f"rows of {site.source} depend on what follows a token or on other sequences of "
                f"its batch: they differ by {error:.0%} where that is left out",
                remedy="use a causal language model",
            )


def _relative_error(found_STD: Tensor, expected_STD: Tensor) -> float:
    """Relative error of the median row: rounding may change the router's choice in single rows."""
    error_ST = (found_STD - expected_STD).square().sum(-1)
    share_ST = error_ST / expected_STD.square().sum(-1).clamp_min(1e-30)
    return float(share_ST.flatten().median(dim=0).values) ** 0.5


def _scales(model: nn.Module) -> tuple[float, ...]:
    """Factors that may stand between what attention and MLP return and what is added."""
    factor = text_setting(model, "residual_multiplier")
    return (1.0, float(factor)) if isinstance(factor, (int, float)) else (1.0,)
