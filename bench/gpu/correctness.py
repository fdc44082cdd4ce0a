"""Whether the device computes what the CPU does, for every architecture.

Gradients of the first step and parameters after some steps in float32 against the CPU; the
automatic precision against float32 (gradients and sets of active latents); two runs equal to the
bit; and whether torch's strict determinism finds an operation to refuse.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from bench.gpu.lab import Lab, Record, Shape, planted_rows, relative
from bench.gpu.ours import advance, gradients, spec_of, trainer_of
from torch import Tensor

from saeserve.core.ops.precision import encoder_dtype
from saeserve.core.training.trainer import Trainer
from saeserve.worker.runners.devices import settle_torch

SMALL, TINY = Shape(256, 2048, 16, 512), Shape(64, 512, 8, 64)
JACCARD_ROWS, TINY_JACCARD_ROWS = 48, 6


@dataclass(frozen=True)
class Case:
    """Fields of a spec, and whether all latents are to count as dead."""

    fields: Mapping[str, Any]
    all_dead: bool = False


def cases(k: int) -> dict[str, Case]:
    """Every architecture, and the paths that differ within one."""
    sorted_often = {"k": k, "sort_by_frequency": True, "sort_every_steps": 5}
    return {
        "topk": Case({"topk": {"k": k}}),
        "topk, AuxK at work": Case({"topk": {"k": k}}, all_dead=True),
        "batchtopk": Case({"batchtopk": {"k": k}}),
        "matryoshka": Case({"matryoshka": sorted_often}),
        "jumprelu": Case({"jumprelu": {}}),
        "jumprelu, target_l0": Case({"jumprelu": {}, "target_l0": float(k)}),
        "relu": Case({"relu": {}}),
        "gated": Case({"gated": {}}),
    }


def run(lab: Lab) -> None:
    """All cases, into lab.data["correctness"]."""
    data: Record = {}
    lab.data["correctness"] = data
    shape = TINY if lab.tiny else SMALL
    x = planted_rows(21 * shape.batch, shape.d, lab.device, seed=11)
    for name, case in cases(shape.k).items():
        with deterministic(strict=False):
            lab.attempt(data, name, lambda c=case: _compare(lab, c, shape, x))
        with deterministic(strict=False):
            lab.attempt(data, f"{name}, graphs", lambda c=case: _graphs(lab, c, shape, x))
        with deterministic(strict=True):
            lab.attempt(data, f"{name}, strict", lambda c=case: _strict(lab, c, shape, x))


@contextmanager
def deterministic(*, strict: bool) -> Generator[None]:
    """Set torch like job processes; `strict` refuses operations without a deterministic form."""
    settle_torch(0)
    # Sets the same switch as `use_deterministic_algorithms`, without importing torch's compiler.
    torch.set_deterministic_debug_mode("error" if strict else "warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


def _compare(lab: Lab, case: Case, shape: Shape, x: Tensor) -> Record:
    steps = 3 if lab.tiny else 20
    full, auto = (
        spec_of(case.fields, shape, steps=100, dtype=dtype, all_dead=case.all_dead)
        for dtype in ("float32", "auto")
    )
    here = trainer_of(full, x.cpu(), torch.device("cpu"))
    there = trainer_of(full, x, lab.device)
    first = x[: shape.batch]
    found: Record = {"gradients": _gaps(there, here, first)}
    advance(here, steps)
    advance(there, steps)
    wanted = here.state.params
    found[f"parameters after {steps} steps"] = {
        name: relative(there.state.params[name], tensor) for name, tensor in wanted.items()
    }
    runs = [trainer_of(auto, x, lab.device) for _ in range(2)]
    for trainer in runs:
        advance(trainer, steps)
    one, other = (trainer.state.tensors() for trainer in runs)
    found["two runs differ in"] = [n for n in one if not torch.equal(one[n], other[n])]
    found["finite"] = runs[0].state.finite()
    return found | {"auto": _precision(lab, runs[0], first)}


def _gaps(there: Trainer, here: Trainer, first: Tensor) -> Record:
    """Relative errors of the device's loss and gradients in float32."""
    found = gradients(there, first, torch.float32)
    wanted = gradients(here, first.cpu(), torch.float32)
    gaps = {"loss": relative(found.loss, wanted.loss)}
    for name in wanted.grads:
        gaps[name] = relative(found.grads[name], wanted.grads[name])
    return gaps


def _precision(lab: Lab, trainer: Trainer, first: Tensor) -> Record:
    """The automatic precision against float32, at one state."""
    dtype = encoder_dtype(trainer.spec, first.device)
    low, full = (gradients(trainer, first, t) for t in (dtype, torch.float32))
    # One row at a time, for the choice of a whole batch has no row of its own.
    wanted = TINY_JACCARD_ROWS if lab.tiny else JACCARD_ROWS
    some = first[:: max(1, len(first) // wanted)]
    a_BF, b_BF = (_active(trainer, some, t) for t in (dtype, torch.float32))
    union_B = (a_BF | b_BF).sum(1)
    share_B = torch.where(union_B > 0, (a_BF & b_BF).sum(1) / union_B.clamp_min(1), 1.0)
    return {
        "is": str(dtype).removeprefix("torch."),
        "gradients": {name: relative(low.grads[name], full.grads[name]) for name in full.grads},
        "jaccard": float(share_B.double().mean()),
    }


def _active(trainer: Trainer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [B, F], through the step itself."""
    return torch.stack([gradients(trainer, row[None], dtype).stats.fired_F > 0 for row in x])


def first_steps(lab: Lab, case: Case) -> None:
    """A few steps in each precision: all that a case's kernels take to compile."""
    shape = TINY if lab.tiny else SMALL
    x = planted_rows(2 * shape.batch, shape.d, lab.device, seed=11)
    for dtype in ("float32", "auto"):
        with deterministic(strict=False):
            spec = spec_of(case.fields, shape, steps=100, dtype=dtype, all_dead=case.all_dead)
            advance(trainer_of(spec, x, lab.device), 2)
    lab.sync()


def _strict(lab: Lab, case: Case, shape: Shape, x: Tensor) -> Record:
    """Two steps where operations that are not deterministic raise."""
    spec = spec_of(case.fields, shape, steps=100, dtype="auto", all_dead=case.all_dead)
    advance(trainer_of(spec, x, lab.device), 2)
    lab.sync()
    return {"refused": None}


def _graphs(lab: Lab, case: Case, shape: Shape, x: Tensor) -> Record:
    """A run whose steps are replayed as graphs against one without, to the bit. Fails on a GPU
    where none is replayed, for then nothing is compared."""
    spec = spec_of(case.fields, shape, steps=100, dtype="auto", all_dead=case.all_dead)
    recorded, plain = (trainer_of(spec, x, lab.device, graphs=on) for on in (True, False))
    steps = 5 if lab.tiny else 20
    events = [event for _ in range(steps) for event in recorded.advance()]
    advance(plain, steps)
    one, other = recorded.state.tensors(), plain.state.tensors()
    replays, warned = recorded.stepper.replays, [str(event) for event in events]
    if lab.cuda and not replays:
        raise RuntimeError(f"no step was replayed: {warned}")
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    return {"replays": replays, "differ in": differ, "warnings": warned}
