"""Tier 1: what the language model loses when it reads reconstructions in place of activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from saeserve.core.evaluation.arms import ArmTable, Begun, Replace
from saeserve.core.evaluation.guarding import Guard
from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import DataError, DataMismatchError

CLEAN, SAE, EVERY = "clean", "sae", "every"
"""Arms that are always there: nothing replaced, reconstructions but for massive rows, and these
too."""


@dataclass(frozen=True)
class Baselines:
    """What else stands in for the rows that are written, float32 [N, d_out] to the same, by arm."""

    replaces: Mapping[str, Replace]
    known: Mapping[str, ArmTable]
    """Tables of an earlier evaluation of the same sequences, as `Recovering.tables` has them."""


class Recovering:
    """Sums of every arm of one model over batches."""

    def __init__(
        self,
        model: InferenceModel,
        baselines: Baselines,
        *,
        massive_above: float | Sequence[float],
    ) -> None:
        """Rows where the norm of a source exceeds `massive_above` (one for each source of the
        columns, or one for all; inf: none) stay as they are in every arm but EVERY
        (docs/DESIGN.md, "Massive activations"). Raises SpecError for a bound that is not positive.
        """
        self._model = model
        self._baselines = baselines
        self._guard = Guard(model.config, massive_above)
        self._own: dict[str, ArmTable] = {}
        self.massive_rows = 0

    @property
    def tables(self) -> Mapping[str, ArmTable]:
        """Sums by name: `tokens`, and `ce.<arm>` and `kl.<arm>` of each arm."""
        return {**self._own, **self._baselines.known}

    def add(self, begun: Begun) -> None:
        """Run the arms on a batch."""
        self._add("tokens", begun, begun.clean_P.new_ones(len(begun.clean_P)))
        self._add(f"ce.{CLEAN}", begun, begun.clean_P)
        before = self._guard.massive_rows
        self._run(begun, SAE, self._guard.around(self._reconstructed))
        massive = self._guard.massive_rows - before
        self.massive_rows += massive
        self._every(begun, massive)
        for name, replace in self._baselines.replaces.items():
            self._run(begun, name, self._guard.around(self._written(replace)))

    def _every(self, begun: Begun, massive: int) -> None:
        if massive:
            self._run(begun, EVERY, self._reconstructed)
            return
        # Without a massive row both arms are the same pass.
        for quantity in ("ce", "kl"):
            last = self._own[f"{quantity}.{SAE}"].rows
            every = self._own.setdefault(f"{quantity}.{EVERY}", ArmTable()).rows
            every.extend(last[len(every) :])

    def _run(self, begun: Begun, arm: str, replace: Replace) -> None:
        nats = begun.run(replace)
        self._add(f"ce.{arm}", begun, nats.ce_P)
        self._add(f"kl.{arm}", begun, nats.kl_P)

    def _add(self, name: str, begun: Begun, values_P: Tensor) -> None:
        self._own.setdefault(name, ArmTable()).add(begun, values_P)

    def _reconstructed(self, columns_NC: Tensor) -> Tensor:
        made_NO = self._model.reconstruct(columns_NC[:, : self._model.config.d_in])
        return made_NO.to(columns_NC)

    def _written(self, replace: Replace) -> Replace:
        first = self._model.config.d_in if self._model.config.transcodes else 0
        return lambda columns_NC: replace(columns_NC[:, first:])


def recover(models: Sequence[Recovering], batches: Iterable[Sequence[Begun]]) -> None:
    """Run the arms of all models; each batch has one begun pass for each of them.

    Raises DataError without a predicted position.
    """
    predicted = 0
    for begun in batches:
        predicted += len(begun[0].clean_P)
        for model, own in zip(models, begun, strict=True):
            model.add(own)
    if not predicted:
        raise DataError("no position was predicted", remedy="give sequences of two tokens or more")


def ablations(model: InferenceModel, mean_O: Tensor) -> dict[str, Replace]:
    """Mean and zero ablation; `mean_O` is the raw mean of what is written.

    Raises DataMismatchError when the mean does not fit the model.
    """
    if model.config.d_out != mean_O.numel():
        raise DataMismatchError(
            f"the model writes rows of width {model.config.d_out}, and the mean has "
            f"{mean_O.numel()}",
            remedy="give the mean of the sources that the model writes",
        )
    return {
        "mean": lambda rows_NO: mean_O.to(rows_NO).expand(len(rows_NO), -1),
        "zero": lambda rows_NO: rows_NO.new_zeros(rows_NO.shape),
    }
