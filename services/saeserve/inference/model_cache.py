"""Loaded models: found by reference, loaded once off the loop, kept within a budget of bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from saeserve.errors import FailedPrecondition, Overloaded
from saeserve.inference.metrics import InferenceMetrics
from saeserve.platform.exhaustion import exhausted, overloaded


class Sized(Protocol):
    """What a cache must know of a model."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        ...


class Version(Protocol):
    """What the registry says of a model version."""

    @property
    def resource(self) -> str:
        """models/<name>/versions/<n>"""
        ...

    @property
    def folder(self) -> Path:
        """Where its files are."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        ...


class Registry(Protocol):
    """The part of registry.models.ModelRegistry used here; called off the loop."""

    def locate(self, reference: str, field: str = "model") -> str:
        """Resource name of the version that `reference` means now. Raises NotFound."""
        ...

    def resolve(self, reference: str, field: str = "model") -> Version:
        """The version itself."""
        ...


ModelT = TypeVar("ModelT", bound=Sized)


@dataclass(frozen=True)
class Loaded(Generic[ModelT]):
    """A model in memory, and its resource name."""

    resource: str
    model: ModelT


@dataclass(eq=False)
class _Slot(Generic[ModelT]):
    loading: asyncio.Task[ModelT]
    size: int = 0
    users: int = 0

    @property
    def idle(self) -> bool:
        return self.users == 0 and self.loading.done()


class ModelCache(Generic[ModelT]):
    """Least recently used models go first; one in use is never dropped."""

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path], ModelT],
        budget_bytes: int,
        metrics: InferenceMetrics,
    ) -> None:
        self._registry = registry
        self._load_files = load
        self._budget = budget_bytes
        self._metrics = metrics
        self._slots: OrderedDict[str, _Slot[ModelT]] = OrderedDict()

    @asynccontextmanager
    async def use(self, reference: str) -> AsyncGenerator[Loaded[ModelT]]:
        """The model that `reference` means now, kept in memory for the length of the block.

        Raises what the registry and the loader raise, FailedPrecondition for a model larger than
        the budget, Overloaded when all of it is in use or the device has no memory.
        """
        # Asked every time, so that a moved alias or a new version is seen.
        resource = await asyncio.to_thread(self._registry.locate, reference)
        slot = self._slots.get(resource) or self._begin(resource)
        slot.users += 1
        try:
            # Shielded: others may wait for the same load.
            model = await asyncio.shield(slot.loading)
            yield Loaded(resource, model)
        finally:
            slot.users -= 1
            if self._slots.get(resource) is slot:
                self._slots.move_to_end(resource)
                self._measure_again(slot)

    async def close(self) -> None:
        """Drop every model."""
        slots = list(self._slots.values())
        await asyncio.gather(*(slot.loading for slot in slots), return_exceptions=True)
        self._slots.clear()
        self._report()

    def _begin(self, resource: str) -> _Slot[ModelT]:
        task = asyncio.create_task(self._load(resource))
        # When every caller has left, nobody else asks a failed load for its error.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        slot = self._slots[resource] = _Slot(task)
        return slot

    async def _load(self, resource: str) -> ModelT:
        slot = self._slots[resource]
        try:
            version = await asyncio.to_thread(self._registry.resolve, resource)
            self._make_room(resource, version.size_bytes)
            slot.size = version.size_bytes
            model = await asyncio.to_thread(self._in_memory, resource, version.folder)
            # A device's low-precision copies come in addition to what the files hold.
            self._make_room(resource, model.size_bytes, slot.size)
            slot.size = model.size_bytes
        except BaseException:
            del self._slots[resource]
            self._metrics.model_loads.labels("error").inc()
            self._report()
            raise
        self._metrics.model_loads.labels("ok").inc()
        self._report()
        return model

    def _in_memory(self, resource: str, folder: Path) -> ModelT:
        try:
            return self._load_files(folder)
        except Exception as error:
            if (memory := exhausted(error)) is None:
                raise
            remedy = "retry, or lower SAESERVE_INFERENCE_MODEL_CACHE_BYTES"
            raise overloaded(memory, resource, remedy) from error

    def _make_room(self, resource: str, size: int, taken: int = 0) -> None:
        """Evict idle models until there is room for `size` bytes, of which the model already has
        `taken`."""
        if size > self._budget:
            raise FailedPrecondition(
                f"{resource} takes {size} bytes, the cache has {self._budget}",
                code="MODEL_TOO_LARGE",
                field="model",
                remedy="the operator raises SAESERVE_INFERENCE_MODEL_CACHE_BYTES",
            )
        while self._resident_bytes() + size - taken > self._budget:
            self._evict_one(resource)

    def _measure_again(self, slot: _Slot[ModelT]) -> None:
        """Count what a model has come to take while it was used, as graphs of it do; idle models
        that were used before it make room."""
        if not slot.loading.done() or slot.loading.cancelled() or slot.loading.exception():
            return
        size, slot.size = slot.size, slot.loading.result().size_bytes
        if size == slot.size:
            return
        while self._resident_bytes() > self._budget and self._drop_idle(slot):
            pass
        self._report()

    def _drop_idle(self, kept: _Slot[ModelT] | None = None) -> bool:
        """Evict the idle model that was used least recently; False where there is none."""
        slots = self._slots.items()
        victim = next((name for name, each in slots if each.idle and each is not kept), None)
        if victim is None:
            return False
        del self._slots[victim]
        self._metrics.model_loads.labels("evicted").inc()
        return True

    def _evict_one(self, wanted: str) -> None:
        if not self._drop_idle():
            self._metrics.rejected.labels("cache_full").inc()
            raise Overloaded(
                f"models in use leave no room for {wanted} in {self._budget} bytes",
                retry_after_s=1.0,
                code="CACHE_FULL",
                field="model",
                remedy="retry, or raise SAESERVE_INFERENCE_MODEL_CACHE_BYTES",
            )

    def _resident_bytes(self) -> int:
        return sum(slot.size for slot in self._slots.values())

    def _report(self) -> None:
        self._metrics.models_resident.set(len(self._slots))
        self._metrics.models_resident_bytes.set(self._resident_bytes())
