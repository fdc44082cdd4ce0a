"""Everything that training carries from step to step; nothing else decides the next one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Permutation, Tensors
from saeserve.core.ops.adam import Moments
from saeserve.core.training import dead
from saeserve.core.training.meter import Meter


def _nothing() -> Tensors:
    return {}


@dataclass
class TrainerState:
    """Parameters, Adam's moments, the architecture's and the controller's state, counters, and
    the open metrics."""

    params: Tensors
    moments: Moments
    architecture: Tensors
    tokens_since_fired_F: Tensor
    meter: Meter
    step: int
    """Steps done."""
    tokens: int
    """Rows seen."""
    tokens_since_fired_or_resampled_F: Tensor
    """Says what AuxK and resampling act on: a resampled latent has a window of its own to fire in,
    and does not count as fired."""
    control: Tensors = field(default_factory=_nothing)
    """What `sparsity.Controller` carries; empty where there is none."""
    bounds: Tensors = field(default_factory=_nothing)
    """What `flight.Flight` carries on an accelerator."""

    @classmethod
    def initial(cls, params: Tensors, architecture: Tensors, d_sae: int) -> TrainerState:
        """The state before the first step."""
        device = next(iter(params.values())).device
        return cls(
            params=params,
            moments=Moments.zeros(params),
            architecture=architecture,
            tokens_since_fired_F=dead.never_fired(d_sae, device),
            meter=Meter.empty(),
            step=0,
            tokens=0,
            tokens_since_fired_or_resampled_F=dead.never_fired(d_sae, device),
        )

    def tensors(self) -> Tensors:
        """Every tensor under a flat name: `params.W_enc`, `first.W_enc`, `architecture.…`."""
        groups = {
            "params": self.params,
            "first": self.moments.first,
            "second": self.moments.second,
            "architecture": self.architecture,
            "meter": self.meter.sums,
            "control": self.control,
            "bounds": self.bounds,
            "counters": {
                "tokens_since_fired": self.tokens_since_fired_F,
                "tokens_since_fired_or_resampled": self.tokens_since_fired_or_resampled_F,
            },
        }
        return {
            f"{group}.{name}": t for group, named in groups.items() for name, t in named.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, step: int, tokens: int) -> TrainerState:
        """The inverse of `tensors`; raises KeyError where a counter is missing."""
        groups: dict[str, Tensors] = {}
        for full_name, value in tensors.items():
            group, _, name = full_name.partition(".")
            groups.setdefault(group, {})[name] = value
        counters = groups.get("counters", {})
        return cls(
            params=groups["params"],
            moments=Moments(first=groups["first"], second=groups["second"]),
            architecture=groups.get("architecture", {}),
            tokens_since_fired_F=counters["tokens_since_fired"],
            tokens_since_fired_or_resampled_F=counters["tokens_since_fired_or_resampled"],
            meter=Meter(groups.get("meter", {})),
            step=step,
            tokens=tokens,
            control=groups.get("control", {}),
            bounds=groups.get("bounds", {}),
        )

    def carry(self, architecture: Tensors) -> None:
        """Take over what the architecture carries from a step to the next, in place."""
        for name, value in architecture.items():
            if name not in self.architecture:
                self.architecture[name] = value
            elif value is not self.architecture[name]:
                self.architecture[name].copy_(value)

    def permute(self, permutation: Permutation) -> None:
        """Put the latents in another order, in place: parameters, both moments, state and counters
        alike."""
        order_F, names = permutation.order_F, permutation.names
        for group in (self.params, self.moments.first, self.moments.second, self.architecture):
            for name in names & group.keys():
                group[name].copy_(group[name][order_F])
        for counter_F in (self.tokens_since_fired_F, self.tokens_since_fired_or_resampled_F):
            counter_F.copy_(counter_F[order_F])

    def finite(self) -> bool:
        """Whether parameters, moments and carried state are free of NaN and Inf."""
        return bool(self.all_finite())

    def all_finite(self) -> Tensor:
        """The same as a scalar on the device, which is not waited for."""
        moments = (self.moments.first, self.moments.second)
        groups = (self.params, *moments, self.architecture, self.control)
        found = [torch.isfinite(t).all() for group in groups for t in group.values()]
        return torch.stack(found).all()
