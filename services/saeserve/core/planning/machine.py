"""What a worker says of its machine, and how fast jobs were on machines of its kind."""

from __future__ import annotations

from pydantic import Field

from saeserve.core.planning.footprint import Memory
from saeserve.core.specs.base import Spec


class StepShape(Spec):
    """What the cost of a training step depends on."""

    architecture: str
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    parameters: int = Field(ge=1)
    active: float = Field(ge=0)
    """Latents a row that the spec asks for; 0 where it does not say."""
    encoder_dtype: str
    """Type that the spec asks for, "auto" included."""
    batch_size: int = Field(ge=1)
    micro_batches: int = Field(ge=1)
    reconstructions: int = Field(default=1, ge=1)
    """Nested prefixes that have one each."""
    few_computed: bool = False
    """Whether kernels compute again only entries whose choice is open. Records of older releases do
    not say: their steps computed all that may have been chosen."""
    kernels: bool = False
    """Whether a GPU's kernels take the step, where Triton is installed. Records of releases that
    had none do not say: their steps were plain torch's."""


class SpeedRecord(Spec):
    """How long a finished train job's steps took."""

    job: str
    shape: StepShape
    seconds_per_step: float = Field(gt=0)
    """Median over the job's reports, waiting for rows included."""


class Machine(Spec):
    """One worker's machine as its jobs see it."""

    kind: str
    """Machines of one kind are equally fast: the processor with its threads, or the accelerator."""
    memory_bytes: int = Field(ge=0)
    """What one job may have: of the accelerator where there is one, else of the host, where a
    control group's limit counts."""
    host_memory_bytes: int = Field(default=0, ge=0)
    """Where there is an accelerator: what one job may have of its host. Workers of older releases
    do not say: 0."""
    records: tuple[SpeedRecord, ...] = ()
    """Speeds of jobs on machines of this kind; workers announce none, control adds them."""


class Fleet(Spec):
    """The workers of a resource class that were heard of lately."""

    resource_class: str = "cpu"
    machines: tuple[Machine, ...] = ()

    @property
    def accelerated(self) -> bool:
        """Whether jobs of the class compute on an accelerator, with memory of its own."""
        return self.resource_class != "cpu"

    @property
    def memory(self) -> Memory:
        """The memory that `Machine.memory_bytes` counts."""
        return Memory.DEVICE if self.accelerated else Memory.SHARED
