"""A model on a device: with an encoder in kernels, where they can run on it.

Their features come as one buffer of int32 with fixed places, so that the host waits once, for the
copy of the buffer:

    [1 where all values are finite, else 0 | counts B | means and deviations 2 B | latents N |
     values N]

Floats stand there by their bits. Statistics of the rows are there where the model normalises rows.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.graphs import graphs_on
from saeserve.core.ops.sparse import SparseRows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where what is in a buffer.

    With `k`, each row has k entries, N = B k, of which those of value 0 mean nothing. Without,
    each row's entries follow the row's before it, and the memory ends at N = `room`: counts tell
    of more where it was too small.
    """

    rows: int
    room: int
    k: int | None
    statistics: bool

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        return 1 + self.rows * (3 if self.statistics else 1) + 2 * self.room


@dataclass(frozen=True)
class PackedFeatures:
    """Features of consecutive blocks of rows, in one buffer."""

    buffer: Tensor
    """int32, on the device."""
    layouts: tuple[Layout, ...]


class DeviceEncoder(Protocol):
    """What encodes in kernels; the host does not wait for any of it."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes in addition to the model's."""
        ...

    @property
    def room(self) -> float:
        """Entries a row for which there is memory, where they are not k."""
        ...

    def encode(self, x_BD: Tensor) -> PackedFeatures:
        """Features of raw rows [B, d_in], float32 on the device, B > 0; exact in float32. Features
        of further rows may follow, which nobody sent."""
        ...

    def padded(self, x_BD: Tensor) -> SparseRows | None:
        """Features of raw rows, each of which has as many, some of value 0, for `decode` alone;
        None where rows differ in that, or have so many that a product decodes them."""
        ...

    def note(self, needed: float) -> None:
        """Have room for twice this many entries a row the next time, or for a few times as many."""
        ...


@dataclass(frozen=True)
class DeviceModel(InferenceModel):
    """A model that has such an encoder."""

    encoder: DeviceEncoder | None = None

    @property
    @override
    def size_bytes(self) -> int:
        """Memory of all tensors and of the encoder's own."""
        return super().size_bytes + (self.encoder.size_bytes if self.encoder else 0)

    @override
    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstruct as InferenceModel does; where rows have k features the host does not wait."""
        if self.encoder is None or not len(x):
            return super().reconstruct(x)
        features = self.encoder.padded(x.to(self.device, torch.float32))
        return super().reconstruct(x) if features is None else self.decode(features, x)


def placed(model: InferenceModel, device: torch.device) -> InferenceModel:
    """The model on `device`, a DeviceModel where kernels can encode there.

    Returns when all of it is in place, for whichever stream uses it first.
    """
    moved = model.to(device)
    if usable_on_device(moved.b_enc):
        # Imports Triton, which is missing elsewhere.
        from saeserve.core.export.device_trial import disagreement
        from saeserve.core.export.on_device import with_encoder
        from saeserve.core.export.recorded import RecordedEncoder

        encoding = with_encoder(moved)
        if isinstance(encoding, DeviceModel) and encoding.encoder is not None:
            # It also builds the kernels, which would take the first request a second or more.
            if why := disagreement(moved, encoding.encoder):
                _log.warning("the model is encoded by plain torch, for %s", why)
            else:
                recorded = RecordedEncoder(encoding.encoder, graphs_on(device))
                moved = dataclasses.replace(encoding, encoder=recorded)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return moved
