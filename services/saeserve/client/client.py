"""The one object that most users need."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import grpc
import numpy as np
import numpy.typing as npt

from saeserve.client.access import PLAIN, Access
from saeserve.client.channel import open_channel
from saeserve.client.datasets import Datasets
from saeserve.client.features import FloatArray, SparseFeatures
from saeserve.client.inference import Inference
from saeserve.client.jobs import Jobs
from saeserve.client.models import Models
from saeserve.client.reconstruction import Reconstruction
from saeserve.client.store import Store
from saeserve.client.tensors import WireType
from saeserve.client.transfers import Transfers

CONTROL_ADDRESS = "127.0.0.1:7070"
INFERENCE_ADDRESS = "127.0.0.1:7071"


class Client:
    """A saeserve deployment: `jobs`, `datasets`, `models` and `transfers` (files out and in)
    and `store` on control, encoding on inference.

    Every call raises a ClientError that says what was wrong and what to do. Channels connect on
    first use; close the client, or use it in a `with`.
    """

    def __init__(
        self,
        control: str = CONTROL_ADDRESS,
        inference: str = INFERENCE_ADDRESS,
        *,
        timeout: float = 60.0,
        access: Access = PLAIN,
        tls: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`access` is what the servers ask for; `tls` are channel credentials of your own making,
        in place of those that `access` gives."""
        self._control = open_channel(control, access, tls)
        self._inference = open_channel(inference, access, tls)
        self.jobs = Jobs(self._control, control, timeout)
        self.datasets = Datasets(self._control, control, timeout)
        self.models = Models(self._control, control, timeout)
        self.transfers = Transfers(self._control, control, timeout)
        self.store = Store(self._control, control)
        self.inference = Inference(self._inference, inference, timeout)

    def encode(
        self,
        model: str,
        activations: npt.NDArray[np.generic],
        *,
        values: WireType = "f32",
        wire: WireType = "f32",
    ) -> SparseFeatures:
        """Sparse features of raw activations [..., d_in]; see `inference.encode`."""
        return self.inference.encode(model, activations, values=values, wire=wire)

    def decode(self, model: str, features: SparseFeatures) -> FloatArray:
        """Reconstructions of sparse features."""
        return self.inference.decode(model, features)

    def reconstruct(self, model: str, activations: npt.NDArray[np.generic]) -> Reconstruction:
        """Reconstructions of raw activations; see `inference.reconstruct`."""
        return self.inference.reconstruct(model, activations)

    def close(self) -> None:
        """Close the channels."""
        self._control.close()
        self._inference.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the channels."""
        self.close()
