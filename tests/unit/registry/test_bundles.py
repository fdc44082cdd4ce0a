"""Bundles belong to a model version: they are found by it and go with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saeserve.errors import FailedPrecondition
from saeserve.platform.store import ArtifactStore
from saeserve.registry.bundles import Bundles, bundle_key, version_of
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.publication import Publication, staged_export

Export = Callable[[str], Path]
KEY = bundle_key("sae", 1, "j-c")


def collected(store: ArtifactStore) -> None:
    """A collect job of sae@1 that has ended, its bundle staged."""
    folder = store.path(staged_export("jobs/j-c/attempts/1"))
    folder.mkdir(parents=True)
    (folder / "features.sqlite").write_bytes(b"x")
    result = {"epoch": 1, "state": "SUCCEEDED", "outputs": [{"exported": KEY}]}
    store.replace("jobs/j-c/result.json", json.dumps(result).encode())


def put(store: ArtifactStore, version: int, job: str) -> None:
    store.path(bundle_key("sae", version, job)).mkdir(parents=True)


def test_a_key_names_the_version() -> None:
    assert version_of(KEY) == ("sae", 1)
    assert version_of("exports/sae/1/saelens") is None
    assert version_of("features/sae/one/j-c") is None


def test_the_last_submitted_job_comes_first(store: ArtifactStore) -> None:
    for job in ("j-01", "j-03", "j-02"):
        put(store, 1, job)
    bundles = Bundles(store)
    assert bundles.jobs("sae", 1) == ["j-03", "j-02", "j-01"]
    assert bundles.jobs("sae", 2) == []
    assert list(bundles.versions()) == [("sae", 1)]


def test_a_deleted_version_takes_its_bundles_along(
    models: ModelRegistry, store: ArtifactStore, export: Export
) -> None:
    for index in range(2):
        models.publish("sae", "j-1", index, export("a"))
        put(store, index + 1, "j-c")
    with pytest.raises(FailedPrecondition):
        models.delete_version("sae@1", lambda _: ["j-live"])
    assert store.exists(KEY)
    models.delete_version("sae@1", lambda _: [])
    assert not store.exists(KEY)
    assert store.exists(bundle_key("sae", 2, "j-c"))


def test_a_bundle_appears_with_its_result(
    models: ModelRegistry, store: ArtifactStore, datasets: DatasetRegistry, export: Export
) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    collected(store)
    for _ in range(2):
        Publication(store, datasets).apply("j-c")
        assert store.names(KEY) == ["features.sqlite"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_bundle_of_a_version_that_is_deleted_does_not_appear(
    models: ModelRegistry,
    store: ArtifactStore,
    datasets: DatasetRegistry,
    export: Export,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    collected(store)
    if when == "before":
        models.delete_version("sae@1", lambda _: [])
    else:
        exists = store.exists

        def deleting(key: str) -> bool:
            """The version goes after its bundles were looked for, before this one appears."""
            if key == KEY:
                monkeypatch.undo()
                models.delete_version("sae@1", lambda _: [])
            return exists(key)

        monkeypatch.setattr(store, "exists", deleting)
    Publication(store, datasets).apply("j-c")
    assert not store.exists(KEY)
    assert not store.exists("features/sae/1")
