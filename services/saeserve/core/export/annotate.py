"""What is found about a model after it was folded: statistics, figures and warnings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.specs.run_warning import RunWarning
from saeserve.errors import DataMismatchError


def with_statistics(
    model: InferenceModel,
    frequency: Tensor,
    maximum: Tensor,
    metrics: Mapping[str, float] | None = None,
) -> InferenceModel:
    """The model with firing statistics [d_sae] and, in its lineage, the figures of an evaluation.

    JSON knows no NaN, so figures that do not exist are left out. Raises DataMismatchError for
    statistics of another width.
    """
    for name, value in (("frequency", frequency), ("maximum", maximum)):
        if value.shape != model.b_enc.shape:
            raise DataMismatchError(
                f"{name} has shape {list(value.shape)}, the model d_sae = {model.config.d_sae}"
            )
    finite = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
    return dataclasses.replace(
        with_lineage(model, metrics=finite),
        frequency=frequency.to(model.b_enc),
        maximum=maximum.to(model.b_enc),
    )


def with_lineage(
    model: InferenceModel,
    *,
    metrics: Mapping[str, float] | None = None,
    warnings: Sequence[RunWarning] = (),
) -> InferenceModel:
    """The model with these figures and warnings added to its lineage."""
    known = model.config.lineage
    lineage = known.model_copy(
        update={
            "metrics": {**known.metrics, **(metrics or {})},
            "warnings": (*known.warnings, *warnings),
        }
    )
    config = model.config.model_copy(update={"lineage": lineage})
    return dataclasses.replace(model, config=config)
