"""Documents that do not hold what was written are told as damaged, by name, and spoil no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saeserve.errors import DamagedError
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.verifying import verified


@pytest.mark.parametrize("name", ["created.json", "failed.json", "registered.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'{"job": 1}'])
def test_a_damaged_document_of_a_data_set_is_named(
    datasets: DatasetRegistry, store: ArtifactStore, name: str, content: bytes
) -> None:
    datasets.create("acts")
    store.path(f"datasets/acts/{name}").write_bytes(content)
    with pytest.raises(DamagedError, match=f"datasets/acts/{name} is damaged"):
        datasets.get("acts")
    datasets.delete("acts")
    assert not datasets.exists("acts")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1"])
def test_a_damaged_alias_is_named_and_can_be_set_again(
    models: ModelRegistry, store: ArtifactStore, export: Callable[[], Path], content: bytes
) -> None:
    models.publish("m", "j-1", 0, export())
    models.set_alias("m", "prod", 1)
    store.path("models/m/aliases/prod.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"models/m/aliases/prod\.json is damaged"):
        models.resolve("m@prod")
    assert models.resolve("m").aliases == ()
    assert models.set_alias("m", "prod", 1).aliases == ("prod",)


def test_a_damaged_claim_is_named(
    models: ModelRegistry, store: ArtifactStore, export: Callable[[], Path]
) -> None:
    models.publish("m", "j-1", 0, export())
    store.path("models/m/versions/1/claim.json").write_bytes(b"{")
    with pytest.raises(DamagedError, match=r"models/m/versions/1/claim\.json is damaged"):
        models.publish("m", "j-2", 0, export())


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_published_files_are_compared_with_their_hashes(
    models: ModelRegistry, export: Callable[[], Path], damage: str
) -> None:
    models.publish("m", "j-1", 0, export())
    folder = models.resolve("m").folder
    assert verified(folder) == folder
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes({"flip": bytes([data[0] ^ 1]) + data[1:]}.get(damage, data[:-1]))
    if damage == "gone":
        path.unlink()
    with pytest.raises(DamagedError, match=r"models/m/versions/1.*(sha256|cannot be read)"):
        verified(folder)
