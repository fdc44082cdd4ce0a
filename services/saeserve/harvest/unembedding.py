"""The map from the residual stream to logits, as far as it is linear."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from saeserve.core.formats.model import TensorSource
from saeserve.errors import DataMismatchError
from saeserve.harvest.language_model import LanguageModel

CONVENTION = (
    "W_dec diag(g) W_U, mean over the vocabulary taken off: g is the weight of the language "
    "model's final norm, whose division by the row's size is left out, and a layer norm also takes "
    "the row's mean off; a direct effect, past all later layers"
)


def folded_unembedding(model: LanguageModel, written: Sequence[TensorSource]) -> Tensor:
    """diag(g) W_U, of a layer norm without the mean over d; float32 [V, d], on the model's device.

    Raises DataMismatchError for a model whose output is not one vector of the residual stream's
    width, and where the language model shows no output embedding.
    """
    unembedding = model.unembedding
    if unembedding is None:
        raise _refused("the language model has no output embedding of its residual stream's width")
    if len(written) != 1 or written[0].d != unembedding.shape[1]:
        raise _refused(
            f"the model writes {' and '.join(f'{each.name} [{each.d}]' for each in written)}, and "
            f"the residual stream has {unembedding.shape[1]} dimensions"
        )
    return unembedding


def _refused(what: str) -> DataMismatchError:
    return DataMismatchError(f"logits cannot be computed: {what}", remedy="leave out logits")
