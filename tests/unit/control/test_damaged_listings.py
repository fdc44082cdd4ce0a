"""One damaged object does not spoil a listing of the others."""

from __future__ import annotations

from tests.fakes.control import Bench

from saeserve.registry.dataset import DatasetState


def test_listings_hold_everything_beside_what_is_damaged(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.datasets.create(name)
        bench.publish(name, f"j-{name}")
    bench.store.path("datasets/b/created.json").write_bytes(b"{")
    bench.store.path("models/b/versions/1/manifest.json").write_bytes(b"{")
    found, _ = bench.parts.datasets.page(10, "")
    assert [(each.name, each.state) for each in found] == [
        ("a", DatasetState.PENDING),
        ("b", DatasetState.FAILED),
        ("c", DatasetState.PENDING),
    ]
    assert "datasets/b/created.json is damaged" in found[1].failure
    versions, _ = bench.parts.models.page("", 10, "")
    assert [each.name for each in versions] == ["a", "c"]
