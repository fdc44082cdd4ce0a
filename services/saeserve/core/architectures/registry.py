"""Every architecture by the name of its spec: one line each."""

from __future__ import annotations

from typing import Any

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.dense_fast import FastGated, FastRelu
from saeserve.core.architectures.jumprelu.fast import FastJumpRelu
from saeserve.core.architectures.skip import WithSkip
from saeserve.core.architectures.topk.fast import FastBatchTopK, FastMatryoshka, FastTopK
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.errors import SpecError

ARCHITECTURES: dict[str, Architecture[Any]] = {
    "topk": FastTopK(),
    "jumprelu": FastJumpRelu(),
    "relu": FastRelu(),
    "gated": FastGated(),
    "batchtopk": FastBatchTopK(),
    "matryoshka": FastMatryoshka(),
}


def architecture_for(spec: ArchitectureSpec) -> Architecture[Any]:
    """The architecture that `spec` describes; raises SpecError where there is none."""
    found = ARCHITECTURES.get(spec.name)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise SpecError(f"train.{spec.name}", "cannot be trained", remedy=f"use one of: {known}")
    return found


def architecture_of(spec: TrainSpec) -> Architecture[Any]:
    """The architecture that a train spec asks for, with its skip connection if it has one."""
    found = architecture_for(spec.architecture)
    return WithSkip(found) if spec.skip_connection else found
