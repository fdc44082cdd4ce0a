"""What the language model loses when it reads reconstructions in place of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import ModelConfig
from saeserve.errors import DataError, DataMismatchError, SpecError

Replace = Callable[[Tensor], Tensor]
"""From the model's columns [N, d_in] at all positions but BOS (a transcoder's [N, d_in + d_out],
its target after its input) to the rows [N, d_out] that stand in for what is written."""
Splice = Callable[[Tensor, Replace | None], Tensor]
"""Runs the language model over tokens [S, T] with the written rows replaced (None: as they are);
returns the cross-entropy in nats of every predicted position."""


@dataclass(frozen=True)
class Compared:
    """A clean and a spliced pass over the same tokens: nats of every predicted position, [P]."""

    clean_P: Tensor
    spliced_P: Tensor
    kl_P: Tensor
    """KL(clean || spliced) of the distributions of the next token."""


Compare = Callable[[Tensor, Replace], Compared]
"""Runs the language model over tokens [S, T] as it is and with the site's rows replaced."""


@dataclass(frozen=True)
class LossRecovered:
    """Cross-entropies in nats a predicted token; `loss_recovered_*` = (CE_abl − CE_sae) /
    (CE_abl − CE_clean), NaN where the ablation changes nothing."""

    ce_clean: float
    ce_sae: float
    ce_mean: float
    ce_zero: float
    ce_delta_nats: float
    """ce_sae − ce_clean."""
    ce_delta_with_massive_nats: float
    """The same with every row replaced, the massive ones too: what a client gets who splices
    whatever the service reconstructs."""
    kl_nats: float
    """Mean KL(clean || SAE) a predicted token; NaN where nothing was given to compare with."""
    loss_recovered_mean: float
    loss_recovered_zero: float
    positions: int
    """Predicted positions in each arm."""
    massive_rows: int
    """Rows left as they are in every arm."""

    def metrics(self) -> dict[str, float]:
        """The figures by name."""
        return {name: float(value) for name, value in vars(self).items()}


def loss_recovered(
    model: InferenceModel,
    splice: Splice,
    batches: Iterable[Tensor],
    *,
    mean_D: Tensor,
    massive_above: float | Sequence[float],
    compare: Compare | None = None,
) -> LossRecovered:
    """Compare four arms on the same positions: clean, SAE, mean ablation, zero ablation.

    With `compare` (of the same site as `splice`) the KL divergence is measured too.

    `batches` are tokens [S, T]; `mean_D` is the raw mean of what is written, which mean ablation
    puts everywhere. Rows where the norm of a source exceeds `massive_above` (one for each source of
    the columns, or one for all; inf: none) stay as they are in every arm
    (docs/DESIGN.md, "Massive activations").
    Raises SpecError for a bound that is not positive, DataMismatchError when the mean does not fit
    the model, DataError without a predicted position.
    """
    widths = _column_widths(model.config)
    single = isinstance(massive_above, (int, float))
    bounds = [massive_above] * len(widths) if single else list(massive_above)
    if not all(bound > 0 for bound in bounds):
        raise SpecError(
            "massive_above", f"must be positive; got {massive_above}", remedy="use inf for none"
        )
    _check_width(model.config, mean_D)
    arms = _Arms(model, splice, compare, mean_D, _Guard(model.config, bounds))
    for tokens_ST in batches:
        arms.add(tokens_ST)
    if arms.sums["clean"].count == 0:
        raise DataError("no position was predicted", remedy="give sequences of two tokens or more")
    return _summary(arms)


class _Arms:
    """Sums of every arm over the batches so far."""

    def __init__(
        self,
        model: InferenceModel,
        splice: Splice,
        compare: Compare | None,
        mean_D: Tensor,
        guard: _Guard,
    ) -> None:
        names = ("clean", "sae", "mean", "zero", "every", "kl")
        self.sums = {name: _Sum() for name in names}
        self.massive_rows = 0
        self._model = model
        self._splice = splice
        self._compare = compare
        self._mean_D = mean_D
        self._guard = guard

    def add(self, tokens_ST: Tensor) -> None:
        before = self._guard.massive_rows
        sae_P = self._clean_and_sae(tokens_ST)
        massive = self._guard.massive_rows - before
        self.massive_rows += massive
        for name, replace in (("mean", self._mean), ("zero", self._zero)):
            self.sums[name].add(self._splice(tokens_ST, self._guard.around(replace)))
        # Without a massive row both arms are the same pass.
        self.sums["every"].add(self._splice(tokens_ST, self._every) if massive else sae_P)

    def _clean_and_sae(self, tokens_ST: Tensor) -> Tensor:
        replace = self._guard.around(self._reconstructed)
        if self._compare is None:
            clean_P, sae_P = self._splice(tokens_ST, None), self._splice(tokens_ST, replace)
        else:
            found = self._compare(tokens_ST, replace)
            clean_P, sae_P = found.clean_P, found.spliced_P
            self.sums["kl"].add(found.kl_P)
        self.sums["clean"].add(clean_P)
        self.sums["sae"].add(sae_P)
        return sae_P

    def _every(self, columns_NC: Tensor) -> Tensor:
        return self._reconstructed(columns_NC).to(columns_NC)

    def _reconstructed(self, columns_NC: Tensor) -> Tensor:
        return self._model.reconstruct(columns_NC[:, : self._model.config.d_in])

    def _mean(self, columns_NC: Tensor) -> Tensor:
        return self._mean_D.to(columns_NC).expand(len(columns_NC), -1)

    def _zero(self, columns_NC: Tensor) -> Tensor:
        return columns_NC.new_zeros(len(columns_NC), self._model.config.d_out)


class _Guard:
    """Keeps massive rows out of a replacement: those that training leaves out."""

    def __init__(self, config: ModelConfig, bounds: Sequence[float]) -> None:
        self._widths = _column_widths(config)
        self._bounds = bounds
        self._written = config.d_in if config.transcodes else 0
        self.massive_rows = 0

    def around(self, replace: Replace) -> Replace:
        def guarded(columns_NC: Tensor) -> Tensor:
            massive_N = torch.zeros(len(columns_NC), dtype=torch.bool, device=columns_NC.device)
            parts = torch.split(columns_NC, self._widths, dim=1)
            for x_ND, bound in zip(parts, self._bounds, strict=True):
                massive_N |= x_ND.float().square().sum(dim=1).sqrt() > bound
            self.massive_rows += int(massive_N.sum())
            kept_NO = columns_NC[:, self._written :]
            return torch.where(massive_N[:, None], kept_NO, replace(columns_NC).to(columns_NC))

        return guarded


class _Sum:
    """A mean over positions, kept as float64 sum and count."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, nats: Tensor) -> None:
        self.total += float(nats.double().sum())
        self.count += nats.numel()

    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


def _column_widths(config: ModelConfig) -> list[int]:
    sources = [*config.inputs, *(config.outputs if config.transcodes else ())]
    return [source.d for source in sources]


def _check_width(config: ModelConfig, mean_D: Tensor) -> None:
    if config.d_out != mean_D.numel():
        raise DataMismatchError(
            f"the model writes rows of width {config.d_out}, and the mean has {mean_D.numel()}",
            remedy="give the mean of the sources that the model writes",
        )


def _summary(arms: _Arms) -> LossRecovered:
    ce = {name: total.mean() for name, total in arms.sums.items()}
    return LossRecovered(
        ce_clean=ce["clean"],
        ce_sae=ce["sae"],
        ce_mean=ce["mean"],
        ce_zero=ce["zero"],
        ce_delta_nats=ce["sae"] - ce["clean"],
        ce_delta_with_massive_nats=ce["every"] - ce["clean"],
        kl_nats=ce["kl"],
        loss_recovered_mean=_recovered(ce["mean"], ce),
        loss_recovered_zero=_recovered(ce["zero"], ce),
        positions=arms.sums["clean"].count,
        massive_rows=arms.massive_rows,
    )


def _recovered(ablated: float, ce: dict[str, float]) -> float:
    lost = ablated - ce["clean"]
    return (ablated - ce["sae"]) / lost if lost else float("nan")
