"""Rows of massive norm stay as they are in a splice (docs/DESIGN.md, "Massive activations")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saeserve.core.evaluation.arms import Replace
from saeserve.core.formats.model import ModelConfig
from saeserve.errors import SpecError


class Guard:
    """Keeps massive rows out of a replacement: those that training leaves out."""

    def __init__(self, config: ModelConfig, bounds: float | Sequence[float]) -> None:
        """A bound for each source of the columns, or one for all; inf: none.

        Raises SpecError for a bound that is not positive.
        """
        self._widths = _column_widths(config)
        single = isinstance(bounds, (int, float))
        self._bounds = [bounds] * len(self._widths) if single else list(bounds)
        if not all(bound > 0 for bound in self._bounds):
            raise SpecError(
                "massive_above", f"must be positive; got {bounds}", remedy="use inf for none"
            )
        self._written = config.d_in if config.transcodes else 0
        self.massive_rows = 0

    def around(self, replace: Replace) -> Replace:
        """The replacement with massive rows left as they are, which are counted."""

        def guarded(columns_NC: Tensor) -> Tensor:
            massive_N = torch.zeros(len(columns_NC), dtype=torch.bool, device=columns_NC.device)
            parts = torch.split(columns_NC, self._widths, dim=1)
            for x_ND, bound in zip(parts, self._bounds, strict=True):
                massive_N |= x_ND.float().square().sum(dim=1).sqrt() > bound
            self.massive_rows += int(massive_N.sum())
            kept_NO = columns_NC[:, self._written :]
            return torch.where(massive_N[:, None], kept_NO, replace(columns_NC).to(columns_NC))

        return guarded


def _column_widths(config: ModelConfig) -> list[int]:
    sources = [*config.inputs, *(config.outputs if config.transcodes else ())]
    return [source.d for source in sources]
