"""Puts the inference service together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from saeserve.core.export.device_model import placed
from saeserve.core.export.format import load_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.inference.batcher import Batcher
from saeserve.inference.bundle_handlers import BundleHandlers
from saeserve.inference.bundle_servicer import feature_service
from saeserve.inference.checks import MAX_RESULT_BYTES
from saeserve.inference.cuda import CudaDevice
from saeserve.inference.engine import TorchEngine, choose_device
from saeserve.inference.feature_handlers import FeatureHandlers
from saeserve.inference.handlers import Handlers
from saeserve.inference.match_handlers import MatchHandlers
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import ModelCache, Registry
from saeserve.inference.servicer import inference_service
from saeserve.inference.settings import InferenceSettings
from saeserve.inference.staged import StagedEngine
from saeserve.inference.work import Engine
from saeserve.platform.gpu_metrics import watch_gpus
from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.metrics import Metrics, MetricsEndpoint, serve_metrics
from saeserve.platform.paths import PathCover
from saeserve.platform.protection import protection
from saeserve.platform.readiness import kept_up_to_date
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import StoreProof
from saeserve.registry.bundles import Bundles
from saeserve.registry.models import ModelRegistry
from saeserve.registry.verifying import verified


@dataclass(frozen=True)
class Running:
    """The parts that a caller may want to talk to."""

    server: GrpcServer
    metrics: MetricsEndpoint
    device: torch.device


@asynccontextmanager
async def running(settings: InferenceSettings) -> AsyncGenerator[Running]:
    """The service, answering; stopped in order when the block ends. Raises StartupError."""
    device = choose_device(settings.inference_device)
    if threads := settings.threads:
        torch.set_num_threads(threads)
    metrics = Metrics("inference", settings.revision)
    watch_gpus(metrics.registry)
    figures = InferenceMetrics(metrics.registry)
    async with AsyncExitStack() as stack:
        store = ArtifactStore(settings.store)
        proof = StoreProof(settings.store)
        store.guard(proof)
        cache = _cache(store, settings, device, figures)
        stack.push_async_callback(cache.close)
        engine = engine_of(device)
        batcher = _batcher(settings, engine, figures)
        stack.push_async_callback(batcher.close)
        handlers = Handlers(cache, batcher, figures)
        looking = FeatureHandlers(cache, batcher, figures)
        reading = await stack.enter_async_context(_reading(store, figures))
        matching = MatchHandlers(cache, figures)
        as_sent = engine.takes_sent_types
        service = inference_service(handlers, looking, matching, figures, as_sent)
        server = GrpcServer(
            settings.inference_address,
            [service, feature_service(reading)],
            metrics,
            insecure=settings.insecure,
            grace_seconds=settings.grace_seconds,
            max_calls=settings.max_calls,
            cover=PathCover.of(settings.store, settings.roots),
            protection=protection(settings, settings.inference_address, store, metrics),
        )
        stack.push_async_callback(server.stop)
        endpoint = serve_metrics(
            metrics.registry,
            settings.inference_metrics_address,
            insecure=settings.metrics_reachable,
        )
        stack.callback(endpoint.close)
        await server.start()
        await stack.enter_async_context(kept_up_to_date(server, [proof]))
        yield Running(server, endpoint, device)


def engine_of(device: torch.device) -> Engine[InferenceModel]:
    """What computes on a device: in stages on a GPU, in one on the CPU."""
    return StagedEngine(CudaDevice(device)) if device.type == "cuda" else TorchEngine()


@asynccontextmanager
async def _reading(
    store: ArtifactStore, figures: InferenceMetrics
) -> AsyncGenerator[BundleHandlers]:
    """What reads bundles; lets go of those that were deleted meanwhile."""
    handlers = BundleHandlers(ModelRegistry(store), Bundles(store), figures)
    forgetting = asyncio.create_task(handlers.forget_missing())
    try:
        yield handlers
    finally:
        forgetting.cancel()
        await handlers.close()


def _cache(
    store: ArtifactStore,
    settings: InferenceSettings,
    device: torch.device,
    figures: InferenceMetrics,
) -> ModelCache[InferenceModel]:
    registry: Registry = ModelRegistry(store)
    budget = settings.inference_model_cache_bytes
    return ModelCache(registry, partial(_load, device), budget, figures)


def _batcher(
    settings: InferenceSettings, engine: Engine[InferenceModel], figures: InferenceMetrics
) -> Batcher[InferenceModel]:
    return Batcher(
        engine,
        figures,
        queue_rows=settings.inference_queue_rows,
        max_batch_rows=settings.inference_max_batch_rows,
        max_result_bytes=MAX_RESULT_BYTES,
    )


def _load(device: torch.device, folder: Path) -> InferenceModel:
    return placed(load_model(verified(folder)), device)
