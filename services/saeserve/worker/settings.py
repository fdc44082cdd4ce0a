"""Settings of a worker, read from its environment."""

from __future__ import annotations

from pydantic import Field

from saeserve.platform.processors import quota
from saeserve.platform.settings import ServiceSettings


class WorkerSettings(ServiceSettings):
    """Settings of a worker; one worker runs one job at a time."""

    worker_metrics_address: str = "127.0.0.1:9471"
    """Where /metrics is served."""

    worker_classes: tuple[str, ...] = ()
    """Resource classes whose jobs this worker takes, as JSON, e.g. ["gpu"]; left out, gpu and cpu
    where torch sees a GPU, else cpu."""

    lease_seconds: float = Field(default=8.0, gt=0)
    """A job whose worker was silent for this long is given to another."""

    stop_grace_seconds: float = Field(default=60.0, gt=0)
    """How long a job may take to checkpoint when asked to stop, before it is killed."""

    retry_seconds: float = Field(default=5.0, ge=0)
    """Pause before a failed job goes back to the queue, times its attempts so far; and before a
    worker whose store failed takes jobs again, doubled with each failure up to a minute."""

    stall_minimum_seconds: float = Field(default=600.0, gt=0)
    """A job in which no step, row, file or checkpoint has moved for this long gets a warning
    (STALLING), and its attempt ends as STALLED after twice as long."""

    stall_factor: float = Field(default=10.0, gt=0)
    """The same for this many times the median interval between the job's reports, where that is
    longer."""

    torch_threads: int = Field(default=0, ge=0)
    """Threads of a job; 0 follows a CPU limit of the container, and without one leaves the choice
    to torch. A resumed job keeps what it began with."""

    gpu_kernels: bool = True
    """Whether jobs train by Triton's kernels where their GPU can run them. Each compares them with
    plain torch before its first step and leaves them alone where they differ, so this is for a
    GPU that a kernel stops altogether."""

    standby: bool = True
    """Whether a process that has loaded torch and the kernels waits for the next job, which then
    begins some seconds earlier; it takes some 220 MiB of memory of its own, none of a device."""

    @property
    def threads(self) -> int:
        """`torch_threads`, or what a CPU limit leaves; 0 leaves the choice to torch, which knows
        the processors of the host alone."""
        return self.torch_threads or quota()
