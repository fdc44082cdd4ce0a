"""The use cases that read what features fire on: finds a model's bundle and looks into it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from saeserve.core.features.bundle import FeatureBundle
from saeserve.errors import DamagedError, FailedPrecondition, FormatError, NotFound
from saeserve.inference.bundle_pool import BundlePool, Reader
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.work import Operation
from saeserve.registry.bundles import Bundles
from saeserve.registry.models import ModelRegistry
from saeserve.registry.references import parse_reference

THREADS = 4
"""Requests that read at a time; the others wait."""
FORGET_EVERY_S = 30.0
_LISTED = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """The bundle that a request is about: of a model reference, and of one job or the newest."""

    model: str
    job: str = ""


@dataclass(frozen=True)
class Opened:
    """The bundle that answers, open."""

    bundle: FeatureBundle
    resource: str
    job: str
    folder: Path
    jobs: tuple[str, ...]
    """Jobs of all bundles of the version, newest first."""


class BundleHandlers:
    """Looks into bundles, in threads of its own: reading must not wait for the device's."""

    def __init__(self, models: ModelRegistry, bundles: Bundles, metrics: InferenceMetrics) -> None:
        self._models = models
        self._bundles = bundles
        self._metrics = metrics
        self._pool = BundlePool(metrics)
        self._threads = ThreadPoolExecutor(THREADS, "bundles")

    async def look(self, operation: Operation, asked: Asked, read: Callable[[Opened], T]) -> T:
        """What `read` makes of the bundle, in a thread.

        Raises NotFound for a model or job that there is not, FailedPrecondition (NO_BUNDLE) for a
        model of which nothing was collected, FormatError and DamagedError for a bundle that cannot
        be read, and what `read` raises.
        """
        with self._metrics.models.call(operation) as call:

            def run() -> T:
                call.resource = self._models.locate(asked.model)
                reader, opened = self._found(call.resource, asked.job)
                with self._pool.held(reader):
                    return self._read(opened, read)

            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, context.run, run)

    async def forget_missing(self) -> None:
        """Let go of bundles that were deleted, now and then, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            await asyncio.to_thread(self._pool.forget_missing)

    async def close(self) -> None:
        """Close all bundles, once the running requests are done."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._pool.close()

    def _found(self, resource: str, job: str) -> tuple[Reader, Opened]:
        """The bundle of `job`, or the newest that can be read."""
        version = parse_reference(resource)
        jobs = tuple(self._bundles.jobs(version.name, version.version))
        unreadable: FormatError | None = None
        for each in (job,) if job in jobs else () if job else jobs:
            folder = self._bundles.folder(version.name, version.version, each)
            try:
                reader = self._pool.borrow(folder, partial(self._open, resource))
            except FormatError as error:
                # One that was deleted in this moment is no longer there to be complained of.
                unreadable = unreadable or (error if folder.exists() else None)
            else:
                return reader, Opened(reader.bundle, resource, each, folder, jobs)
        if unreadable is not None:
            raise unreadable.under("job" if job else "model")
        raise _no_such_bundle(resource, job, jobs) if job else _no_bundle(resource)

    def _open(self, resource: str, folder: Path) -> FeatureBundle:
        """The bundle in `folder`. Raises FormatError for one of other weights."""
        bundle = FeatureBundle.open(folder)
        try:
            self._check_weights(bundle, resource)
        except BaseException:
            bundle.close()
            raise
        return bundle

    def _check_weights(self, bundle: FeatureBundle, resource: str) -> None:
        version, manifest = self._models.resolve(resource), bundle.manifest
        if manifest.model_sha256 != version.content_sha256:
            raise FormatError(
                f"the bundle was collected with other weights than those of {resource}: with "
                f"{manifest.model} of content {manifest.model_sha256[:12]}",
                code="BUNDLE_OF_ANOTHER_MODEL",
                remedy=_collect(resource),
            )

    def _read(self, opened: Opened, read: Callable[[Opened], T]) -> T:
        """What `read` returns. Raises NotFound where its files went away meanwhile."""
        try:
            return read(opened)
        except (DamagedError, OSError):
            if opened.folder.exists():
                raise
            self._models.locate(opened.resource)
            raise _no_such_bundle(opened.resource, opened.job, ()) from None


def _collect(resource: str) -> str:
    """What to do about a model without a bundle that can be read."""
    version = parse_reference(resource)
    model = f"{version.name}@{version.version}"
    return f"make one: saeserve submit collect --model {model} --dataset NAME"


def _no_bundle(resource: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"nothing was collected of the features of {resource}",
        code="NO_BUNDLE",
        field="model",
        remedy=_collect(resource),
    )


def _no_such_bundle(resource: str, job: str, jobs: Sequence[str]) -> NotFound:
    there = f"there are those of {', '.join(jobs[:_LISTED])}" if jobs else _collect(resource)
    return NotFound(
        f"{resource} has no bundle of job {job!r}",
        code="BUNDLE_NOT_FOUND",
        field="job",
        remedy=there,
    )
