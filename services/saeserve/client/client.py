"""The one object that most users need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from saeserve.client.access import Access
from saeserve.client.arrays import ArrayInput
from saeserve.client.channel import open_channel
from saeserve.client.datasets import Datasets
from saeserve.client.feature_bundles import Features
from saeserve.client.feature_inputs import FeatureInput
from saeserve.client.features import FloatArray, SparseFeatures
from saeserve.client.inference import Inference
from saeserve.client.jobs import Jobs
from saeserve.client.models import Models
from saeserve.client.reconstruction import Reconstruction
from saeserve.client.server import Server
from saeserve.client.settings import ClientEnvironment
from saeserve.client.steering import Edits, Steered
from saeserve.client.store import Store
from saeserve.client.tensors import WireType
from saeserve.client.texts import annotated, generated, outcome
from saeserve.client.transfers import Transfers


class Client:
    """A saeserve deployment: `jobs`, `datasets`, `models` and `transfers` (files out and in),
    `store` and `server` on control, encoding and `features` on inference.

    Addresses (host:port or unix:/path) that are left out are those of SAESERVE_CONTROL_ADDRESS and
    SAESERVE_INFERENCE_ADDRESS, else of a stack on this machine; certificates are likewise those of
    SAESERVE_TLS_CA, SAESERVE_CLIENT_CERT and SAESERVE_CLIENT_KEY. `timeout` bounds each request, in
    seconds. Every call raises a ClientError that says what was wrong and what to do. Channels
    connect on first use; close the client, or use it in a `with`.

    >>> with Client("control.example:7070", "inference.example:7071", timeout=30) as client:
    ...     features = client.encode("my-sae@prod", activations)
    """

    def __init__(
        self,
        control: str | None = None,
        inference: str | None = None,
        *,
        timeout: float = 60.0,
        access: Access | None = None,
        tls: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`access` is what the servers ask for; `tls` are channel credentials of your own making,
        in place of those that `access` gives."""
        known = ClientEnvironment.load()
        control = control or known.control_address
        inference = inference or known.inference_address
        access = known.access() if access is None else access
        self._control = open_channel(control, access, tls)
        self._inference = open_channel(inference, access, tls)
        self.jobs = Jobs(self._control, control, timeout)
        self.datasets = Datasets(self._control, control, timeout)
        self.models = Models(self._control, control, timeout)
        self.transfers = Transfers(self._control, control, timeout)
        self.store = Store(self._control, control)
        self.server = Server(self._control, control, timeout)
        self.inference = Inference(self._inference, inference, timeout)
        self.features = Features(self._inference, inference, timeout)

    def encode(
        self,
        model: str,
        activations: ArrayInput,
        *,
        values: WireType = "f32",
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> SparseFeatures:
        """Sparse features of raw activations [..., d_in]; see `inference.encode`.

        >>> features = client.encode("my-sae@prod", activations)
        """
        return self.inference.encode(model, activations, values=values, wire=wire, timeout=timeout)

    def decode(
        self, model: str, features: FeatureInput, *, timeout: float | None = None
    ) -> FloatArray:
        """Reconstructions of features; see `inference.decode`.

        >>> reconstructions = client.decode("my-sae@prod", features)
        """
        return self.inference.decode(model, features, timeout=timeout)

    def reconstruct(
        self,
        model: str,
        activations: ArrayInput,
        *,
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> Reconstruction:
        """Reconstructions of raw activations; see `inference.reconstruct`.

        >>> reconstructions = client.reconstruct("my-sae@prod", activations)
        """
        return self.inference.reconstruct(model, activations, wire=wire, timeout=timeout)

    def steer(
        self,
        model: str,
        activations: ArrayInput,
        edits: Edits,
        *,
        rows: Sequence[int] | None = None,
        target: ArrayInput | None = None,
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> Steered:
        """Raw activations moved by edits of their features; see `inference.steer`.

        >>> moved = client.steer("my-sae@prod", activations, [{"feature": 12, "add": 8.0}])
        """
        return self.inference.steer(
            model, activations, edits, rows=rows, target=target, wire=wire, timeout=timeout
        )

    def generate(
        self,
        model: str,
        prompts: Sequence[str],
        edits: Edits,
        *,
        dataset: str | None = None,
        timeout: float | None = None,
        **settings: Any,  # noqa: ANN401 - fields of the job's spec
    ) -> tuple[Mapping[str, Any], ...]:
        """What a language model writes after each prompt as it is, and steered: a generate job,
        submitted and waited for; `timeout` bounds the wait.

        The language model is that of `dataset`, left out that of the model's own. `settings` are
        other fields of GenerateSpec: max_new_tokens, temperature, seed, positions, kv_cache …

        >>> edits = [{"feature": 12, "add": 8.0}]
        >>> for text in client.generate("my-sae@prod", ["Once"], edits, dataset="my-acts"):
        ...     print(text["unsteered"]["text"], text["steered"]["text"], text["kl_nats"])
        """
        more = {"dataset": dataset, **settings}
        job = generated(self.jobs, self.models, model, prompts, edits, more)
        report = outcome(self.jobs.wait(job.id, timeout=timeout)).outputs[0].generation or {}
        return tuple(report.get("continuations", ()))

    def annotate(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dataset: str | None = None,
        timeout: float | None = None,
        **settings: Any,  # noqa: ANN401 - fields of the job's spec
    ) -> tuple[Mapping[str, Any], ...]:
        """The features that fire on each token of some texts: an annotate job, submitted and waited
        for, as in `generate`. `settings` are other fields of AnnotateSpec: features, long_texts.

        >>> for text in client.annotate("my-sae@prod", ["Once upon"], dataset="my-acts"):
        ...     print([(token["text"], token.get("features")) for token in text["tokens"]])
        """
        more = {"dataset": dataset, **settings}
        job = annotated(self.jobs, self.models, model, texts, more)
        report = outcome(self.jobs.wait(job.id, timeout=timeout)).outputs[0].annotation or {}
        return tuple(report.get("texts", ()))

    def close(self) -> None:
        """Close the channels.

        >>> client.close()
        """
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
