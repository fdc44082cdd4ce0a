"""Settings of the inference service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saeserve.platform.processors import quota
from saeserve.platform.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """Settings of the inference service, in addition to those of every service."""

    inference_address: str = "127.0.0.1:7071"
    """Where gRPC is answered: host:port or unix:/path."""

    inference_metrics_address: str = "127.0.0.1:9472"
    """Where /metrics is answered."""

    max_calls: int = Field(default=256, ge=1)
    """Maximum number of concurrent calls; each may hold a request of 64 MiB."""

    inference_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes CUDA when there is one."""

    gpu_kernels: bool = True
    """Whether models are encoded by Triton's kernels where the GPU can run them. They are compared
    with plain torch when a model is loaded, so this is for a GPU that a kernel stops altogether."""

    inference_threads: int = Field(default=0, ge=0)
    """Threads of torch on the CPU; 0 follows a CPU limit of the container, and without one leaves
    the choice to torch."""

    inference_queue_rows: int = Field(default=65_536, ge=1)
    """Rows that may wait; more are refused with RESOURCE_EXHAUSTED, unless nothing waits."""

    inference_max_batch_rows: int = Field(default=4096, ge=1)
    """Rows of one device batch; larger requests take turns of this size."""

    inference_model_cache_bytes: int = Field(default=4 * 2**30, ge=1)
    """Memory that loaded models may take together, on a GPU with their float16 copies; the least
    recently used go first."""

    @property
    def threads(self) -> int:
        """`inference_threads`, or what a CPU limit leaves; 0 leaves the choice to torch, which
        knows the processors of the host alone."""
        return self.inference_threads or quota()
