"""Bundles of published models in a store, as collect jobs would have left them."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.feature_bundles import make_bundle

from saeserve.platform.store import ArtifactStore
from saeserve.registry.bundles import bundle_key
from saeserve.registry.models import ModelRegistry


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
