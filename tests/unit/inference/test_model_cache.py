"""Loading once, keeping within the budget, following aliases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from saeserve.errors import FailedPrecondition, FormatError, NotFound, Overloaded
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import ModelCache


@dataclass(frozen=True)
class FakeModel:
    name: str
    size_bytes: int


@dataclass(frozen=True)
class FakeVersion:
    resource: str
    folder: Path
    size_bytes: int


@dataclass
class Shelf:
    """Registry, loader and cache over models whose sizes are given."""

    sizes: dict[str, int]
    budget: int = 100
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    loads: list[str] = field(default_factory=list[str])
    broken: set[str] = field(default_factory=set[str])
    heavy: set[str] = field(default_factory=set[str])
    larger: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes of models that take more than their files."""
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    samples: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.gate.set()
        metrics = InferenceMetrics(self.samples)
        self.cache = ModelCache(self, self.load, self.budget, metrics)

    def locate(self, reference: str, field: str = "model") -> str:
        name = self.aliases.get(reference, reference)
        if name not in self.sizes:
            raise NotFound(f"there is no model {reference}", field=field)
        return name

    def resolve(self, reference: str, field: str = "model") -> FakeVersion:
        return FakeVersion(reference, Path(reference), self.sizes[reference])

    def load(self, folder: Path) -> FakeModel:
        self.loads.append(folder.name)
        self.entered.set()
        assert self.gate.wait(30)
        if folder.name in self.broken:
            raise FormatError(f"{folder.name} is damaged")
        if folder.name in self.heavy:
            raise RuntimeError("CUDA error: out of memory")
        return FakeModel(folder.name, self.larger.get(folder.name, self.sizes[folder.name]))

    async def touch(self, reference: str) -> str:
        async with self.cache.use(reference) as loaded:
            assert loaded.model.name == loaded.resource
            return loaded.resource

    def sample(self, name: str, **labels: str) -> float | None:
        return self.samples.get_sample_value(f"saeserve_{name}", labels)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(limited())


def test_a_model_is_loaded_once_however_many_ask() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10})
        shelf.gate.clear()
        asking = [asyncio.ensure_future(shelf.touch("a")) for _ in range(5)]
        await asyncio.to_thread(shelf.entered.wait, 30)
        shelf.gate.set()
        assert await asyncio.gather(*asking) == ["a"] * 5
        assert await shelf.touch("a") == "a"
        assert shelf.loads == ["a"]
        assert shelf.sample("model_loads_total", result="ok") == 1
        assert shelf.sample("models_resident_bytes") == 10

    run(scenario)


def test_a_moved_alias_is_seen_at_once() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10, "b": 10}, aliases={"prod": "a"})
        assert await shelf.touch("prod") == "a"
        shelf.aliases["prod"] = "b"
        assert await shelf.touch("prod") == "b"

    run(scenario)


def test_the_least_recently_used_goes_first() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 40, "b": 40, "c": 40})
        for name in ("a", "b", "a", "c", "a", "b"):
            await shelf.touch(name)
        assert shelf.loads == ["a", "b", "c", "b"]
        assert shelf.sample("models_resident") == 2
        assert shelf.sample("models_resident_bytes") == 80
        assert shelf.sample("model_loads_total", result="evicted") == 2

    run(scenario)


def test_what_a_device_adds_to_a_model_needs_room_too() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 40, "b": 40, "c": 90}, larger={"b": 70, "c": 110})
        for name in ("a", "b"):
            await shelf.touch(name)
        assert shelf.sample("models_resident_bytes") == 70
        assert shelf.sample("model_loads_total", result="evicted") == 1
        with pytest.raises(FailedPrecondition, match="c takes 110 bytes"):
            await shelf.touch("c")
        assert shelf.sample("models_resident") == 0

    run(scenario)


def test_a_model_in_use_is_never_dropped() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 60, "b": 60})
        async with shelf.cache.use("a"):
            with pytest.raises(Overloaded, match="models in use leave no room for b") as caught:
                await shelf.touch("b")
            assert caught.value.code == "CACHE_FULL"
        assert await shelf.touch("b") == "b"
        assert shelf.sample("models_resident_bytes") == 60
        assert shelf.sample("rejected_total", reason="cache_full") == 1

    run(scenario)


def test_a_device_without_room_for_a_model_asks_to_come_again() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10}, heavy={"a"})
        with pytest.raises(Overloaded, match="the accelerator has no memory for a") as caught:
            await shelf.touch("a")
        assert caught.value.code == "OUT_OF_MEMORY"
        assert shelf.sample("models_resident") == 0
        shelf.heavy.clear()
        assert await shelf.touch("a") == "a"

    run(scenario)


def test_a_model_larger_than_the_budget_names_the_setting() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10, "huge": 101})
        await shelf.touch("a")
        with pytest.raises(
            FailedPrecondition, match="huge takes 101 bytes, the cache has 100"
        ) as e:
            await shelf.touch("huge")
        assert "SAESERVE_INFERENCE_MODEL_CACHE_BYTES" in e.value.remedy
        assert shelf.sample("models_resident") == 1

    run(scenario)


def test_a_failed_load_is_told_to_all_leaves_nothing_and_may_be_tried_again() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 60}, broken={"a"})
        results = await asyncio.gather(shelf.touch("a"), shelf.touch("a"), return_exceptions=True)
        assert [type(result) for result in results] == [FormatError, FormatError]
        assert shelf.sample("models_resident_bytes") == 0
        shelf.broken.clear()
        assert await shelf.touch("a") == "a"
        assert shelf.sample("model_loads_total", result="error") == 1

    run(scenario)


def test_a_caller_that_leaves_does_not_end_the_load_of_others() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10})
        shelf.gate.clear()
        leaving = asyncio.ensure_future(shelf.touch("a"))
        await asyncio.to_thread(shelf.entered.wait, 30)
        staying = asyncio.ensure_future(shelf.touch("a"))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        shelf.gate.set()
        assert await staying == "a"
        assert shelf.loads == ["a"]

    run(scenario)


def test_what_does_not_exist_is_not_found() -> None:
    async def scenario() -> None:
        with pytest.raises(NotFound, match="there is no model z"):
            await Shelf({}).touch("z")

    run(scenario)


def test_closing_drops_every_model() -> None:
    async def scenario() -> None:
        shelf = Shelf({"a": 10})
        await shelf.touch("a")
        await shelf.cache.close()
        assert shelf.sample("models_resident") == 0

    run(scenario)
