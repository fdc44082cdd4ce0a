"""Bundles of published models in a store, as collect jobs would have left them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tests.fakes.feature_bundles import label_of, make_bundle
from tests.fakes.inference_server import in_thread, settings_of
from tests.fakes.small_model import small_model

from saeserve.client import Client
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.core.labels.choosing import Method
from saeserve.platform.store import ArtifactStore
from saeserve.registry.bundles import bundle_key
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import feature_service_pb2_grpc

D_SAE = 200
LABELS = (
    label_of(3, "months of the year"),
    label_of(3, "days", method=Method.TOP_TOKENS, counts=(0, 60, 0), best=False),
)
OLD, NEW = "j-00000000000000000001", "j-00000000000000000002"


def put_bundle(
    store: ArtifactStore,
    models: ModelRegistry,
    reference: str,
    job: str,
    **made: object,
) -> Path:
    """Write the bundle of `job` for a model version; `made` as `make_bundle` takes them."""
    version = models.resolve(reference)
    folder = store.path(bundle_key(version.name, version.version, job))
    stated: dict[str, object] = {
        "d_sae": version.config.d_sae,
        "model": f"{version.name}@{version.version}",
        "model_sha256": version.content_sha256,
        "job": job,
    }
    return make_bundle(folder, **(stated | made))  # pyright: ignore[reportArgumentType] - its own


@dataclass(frozen=True)
class Deployment:
    """A running service, and the store that it reads."""

    stub: Any
    address: str
    store: ArtifactStore
    models: ModelRegistry
    root: Path

    def publish(self, name: str, index: int = 0, seed: int = 0) -> str:
        folder = self.root / f"{name}-{index}"
        save_model(small_model(TopKActivation(k=4), d_sae=D_SAE, seed=seed), folder)
        return self.models.publish(name, "j-test", index, folder)

    def bundle(self, reference: str, job: str, **made: object) -> Path:
        return put_bundle(self.store, self.models, reference, job, **made)

    def client(self) -> Client:
        return Client(self.address, self.address)

    def delete(self, reference: str) -> None:
        self.models.delete_version(reference, lambda _: [], force=True)


@contextmanager
def bundles_served(root: Path) -> Generator[Deployment]:
    """A server with the model sae, of which two jobs have made bundles."""
    store = ArtifactStore(root / "store")
    models = ModelRegistry(store)
    with (
        in_thread(settings_of(root / "store")) as parts,
        grpc.insecure_channel(parts.server.bound) as channel,
    ):
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        made = Deployment(stub, parts.server.bound, store, models, root)
        made.publish("sae")
        made.bundle("sae", OLD, seed=1)
        made.bundle("sae", NEW, seed=2, labels=LABELS)
        yield made
