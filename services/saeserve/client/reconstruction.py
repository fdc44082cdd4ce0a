"""What `reconstruct` gives: an array that knows which rows the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeserve.v1 import inference_service_pb2


class Reconstruction(npt.NDArray[np.float32]):
    """Reconstructions [..., d_out]: an array of numpy with a note on some of its rows.

    >>> reconstructions = client.reconstruct("my-sae@prod", activations)
    >>> unusual = activations[reconstructions.beyond_norm_bound]
    """

    model: str = ""
    """models/<name>/versions/<n> that answered."""
    beyond_norm_bound: npt.NDArray[np.int64] | None = None
    """Numbers of the rows (of [rows, d_in]) whose norm exceeds the model's bound: it was not
    trained on such, and what it makes of them means little. None in an array that was computed
    from this one, whose rows may be others."""


def reconstruction_of(
    x: npt.NDArray[np.float32], answer: inference_service_pb2.ReconstructResponse
) -> Reconstruction:
    """Make the array of an answer, with what the answer says of its rows."""
    found = x.view(Reconstruction)
    found.model = answer.execution.resolved_model
    found.beyond_norm_bound = np.array(answer.beyond_norm_bound, np.int64)
    return found


def joined(parts: Sequence[Reconstruction], leading: tuple[int, ...]) -> Reconstruction:
    """The rows of all parts in order, as one array with `leading` axes."""
    firsts = np.cumsum([0, *(len(part) for part in parts)])
    beyond = [
        first + part.beyond_norm_bound
        for first, part in zip(firsts, parts, strict=False)
        if part.beyond_norm_bound is not None
    ]
    whole = np.concatenate(parts).reshape(*leading, parts[0].shape[-1]).view(Reconstruction)
    whole.model = parts[0].model
    whole.beyond_norm_bound = np.concatenate(beyond).astype(np.int64)
    return whole
