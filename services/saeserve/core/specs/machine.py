"""What a worker tells of its machine: memory, and how fast it is at what training does."""

from __future__ import annotations

from pydantic import Field

from saeserve.core.specs.architectures import ARCHITECTURE_SPECS
from saeserve.core.specs.base import Spec


class StepTiming(Spec):
    """Steps of one architecture as they were measured: seconds = rows x per row + per step."""

    architecture: str
    d_in: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    active: float = Field(ge=0)
    """Latents a row that were active."""
    encoder_dtype: str
    seconds_per_row: float = Field(gt=0)
    seconds_per_step: float = Field(ge=0)
    """What does not depend on the batch: the optimiser, projections, statistics."""


class Machine(Spec):
    """One worker's machine as its jobs see it."""

    fingerprint: str
    """Changes where a measurement would: processor, threads, versions."""
    name: str
    """Of the processor, or of the accelerator."""
    instruction_set: str = ""
    threads: int = Field(default=0, ge=0)
    memory_bytes: int = Field(ge=0)
    """What one job may have: of the accelerator where there is one, else of the host, where a
    control group's limit counts."""
    float32_flops: float = Field(default=1.0, gt=0)
    bfloat16_flops: float = Field(default=1.0, gt=0)
    """FLOP a second of an encoder's product; of no use without timings."""
    adam_bytes_per_second: float = Field(default=1.0, gt=0)
    """Memory traffic of the optimiser: 28 bytes a parameter."""
    timings: tuple[StepTiming, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it is known how fast it is at every architecture, beside how large."""
        return ARCHITECTURE_SPECS.keys() == {each.architecture for each in self.timings}

    def timing(self, architecture: str) -> StepTiming | None:
        """The measured steps of an architecture, if any."""
        found = [each for each in self.timings if each.architecture == architecture]
        return found[0] if found else None


class Fleet(Spec):
    """The workers of a resource class that were heard of lately."""

    resource_class: str = "cpu"
    machines: tuple[Machine, ...] = ()

    @property
    def accelerated(self) -> bool:
        """Whether jobs of the class compute on an accelerator, with memory of its own."""
        return self.resource_class != "cpu"
