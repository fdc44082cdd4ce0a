"""What the deployment offers: live workers by resource class, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saeserve.core.planning.machine import Machine
from saeserve.core.specs.presets import PRESETS, Preset
from saeserve.jobs.ports import JobIndex

CLASSES = ("cpu", "gpu")
"""Resource classes that a job may ask for."""


@dataclass(frozen=True)
class ClassOffer:
    """A resource class: the machines of its live workers, and the jobs queued for it."""

    name: str
    machines: tuple[Machine, ...]
    queued: int


class Offers:
    """Looks at what workers announce."""

    def __init__(self, index: JobIndex) -> None:
        self._index = index

    def workers(self) -> list[ClassOffer]:
        """Each class. Raises IndexUnavailable."""
        queued = self._index.runnable()
        return [
            ClassOffer(name, tuple(self._index.machines(name)), queued.get(name, 0))
            for name in CLASSES
        ]

    def presets(self) -> Mapping[str, Preset]:
        """By name."""
        return PRESETS
