"""TopK and JumpReLU at S1 and S3: ours and the peers', turn about on the same rows.

Contestants of one architecture and shape are alive together and take turns of a few steps, so that
clocks and temperature are the same for all; ratios are of one run. Optimisers are included; rows
lie on the device.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from bench.gpu.lab import Lab, Record, Shape, batches, failure, planted_rows, spread
from bench.gpu.ours import NEVER, advance, spec_of, trainer_of
from bench.peers.registry import TOPK_PEERS
from bench.peers.setting import Architecture, PeerSetting, Schedule
from torch import Tensor

from saeserve.worker.runners.devices import settle_torch

Step = Callable[[Tensor], object]
Start = Callable[[Lab, Shape, Tensor], Step]
ROUNDS, WARM = 4, 3
TURN_S = 0.25
LOGGING = ("wandb", "plotly", "plotly.express", "plotly.graph_objects", "plotly.subplots")
"""What the peers only log and draw with; a module without contents stands in where it is absent."""


@dataclass(frozen=True)
class Contestant:
    """A system at one architecture and precision."""

    name: str
    start: Start
    deterministic: bool = False
    tf32: bool = False


@dataclass
class Run:
    """A started contestant and its times so far."""

    contestant: Contestant
    step: Step
    times: list[float] = field(default_factory=list[float])
    peak_bytes: int | None = None


def run(lab: Lab) -> None:
    """All races, into lab.data["speed"]."""
    data: Record = {}
    lab.data["speed"] = data
    races: dict[str, tuple[Contestant, ...]] = {
        "topk": (*_ours_topk(), *_peers("topk", TOPK_PEERS)),
        "jumprelu": (*_ours_jumprelu(), *_peers("jumprelu", ("SAELens", "dictionary_learning"))),
    }
    with _stand_ins():
        for name, shape in lab.shapes.items():
            x = planted_rows(4 * shape.batch, shape.d, lab.device)
            for architecture, contestants in races.items():
                into: Record = {}
                data[f"{name} {architecture}"] = into
                _race(lab, into, contestants, shape, x)


def _ours_topk() -> tuple[Contestant, ...]:
    off = {"auxk_coefficient": 0.0}
    return (
        _ours("ours", {"topk": {}}, "auto"),
        _ours("ours, AuxK off", {"topk": off}, "auto"),
        _ours("ours, AuxK off, float32", {"topk": off}, "float32"),
    )


def _ours_jumprelu() -> tuple[Contestant, ...]:
    return tuple(
        _ours(name, {"jumprelu": {}}, dtype)
        for name, dtype in (("ours", "auto"), ("ours, float32", "float32"))
    )


def _ours(name: str, architecture: Mapping[str, Any], dtype: str) -> Contestant:
    def start(lab: Lab, shape: Shape, x: Tensor) -> Step:
        fields = {
            kind: {**values, "k": shape.k, "b_dec_init": "mean"} if kind == "topk" else values
            for kind, values in architecture.items()
        }
        spec = spec_of(fields, shape, steps=NEVER, dtype=dtype)
        trainer = trainer_of(spec, x, lab.device)
        return lambda _rows: advance(trainer, 1)

    return Contestant(name, start, deterministic=True)


def _peers(architecture: Architecture, names: Iterable[str]) -> tuple[Contestant, ...]:
    modes = {"fp32": (False, False), "tf32": (False, True), "autocast": (True, False)}
    return tuple(
        Contestant(f"{name} {mode}", _peer(name, architecture, autocast=autocast), tf32=tf32)
        for name in names
        for mode, (autocast, tf32) in modes.items()
        # sparsify chooses the precision of its encoder by itself.
        if name != "sparsify" or mode == "fp32"
    )


def _peer(name: str, architecture: Architecture, *, autocast: bool) -> Start:

    def start(lab: Lab, shape: Shape, x: Tensor) -> Step:  # noqa: ARG001 - ours needs the rows
        setting = PeerSetting(
            architecture=architecture,
            d=shape.d,
            d_sae=shape.m,
            k=shape.k,
            steps=NEVER,
            batch_size=shape.batch,
            seed=0,
            root_mean_square=shape.d**0.5,
            schedule=Schedule(2e-4, 5, NEVER // 5),
            autocast=autocast,
            device=str(lab.device),
        )
        return TOPK_PEERS[name](setting).step

    return start


def _race(
    lab: Lab, into: Record, contestants: tuple[Contestant, ...], shape: Shape, x: Tensor
) -> None:
    runs: list[Run] = []
    for contestant in contestants:
        lab.attempt(into, contestant.name, lambda c=contestant: _start(lab, c, shape, x, runs), 4)
    for round_ in range(1 if lab.tiny else ROUNDS):
        for entry in list(runs):
            if lab.left() < 2 * TURN_S or not _turn(
                lab, into, entry, batches(x, shape.batch), round_
            ):
                runs.remove(entry)
    for entry in runs:
        rate = shape.batch / spread(entry.times)["ms"] * 1e3
        into[entry.contestant.name] |= spread(entry.times) | {
            "tokens_per_s": rate,
            "peak_bytes": entry.peak_bytes,
        }
    lab.save()
    runs.clear()
    lab.free()


def _start(lab: Lab, contestant: Contestant, shape: Shape, x: Tensor, runs: list[Run]) -> Record:
    """Take the first steps, which compile and allocate; `runs` gets who finished them."""
    lab.free()
    before = torch.cuda.memory_allocated() if lab.cuda else 0
    lab.reset_peak()
    step = contestant.start(lab, shape, x)
    rows = batches(x, shape.batch)
    with _settings(contestant):
        lab.times_ms(lambda n: step(rows[n % len(rows)]), 1 if lab.tiny else WARM)
    peak = lab.peak_bytes()
    runs.append(Run(contestant, step, peak_bytes=None if peak is None else peak - before))
    return {}


def _turn(lab: Lab, into: Record, entry: Run, rows: list[Tensor], round_: int) -> bool:
    """A turn of some steps; False, and a record of why, when one fails."""
    reps = 1 if lab.tiny or not entry.times else max(2, int(TURN_S * 1e3 / entry.times[-1]))
    try:
        with _settings(entry.contestant):
            found = lab.times_ms(lambda n: entry.step(rows[n % len(rows)]), min(reps, 20), round_)
    except Exception as error:
        into[entry.contestant.name] |= failure(error)
        return False
    entry.times += found
    return True


@contextlib.contextmanager
def _settings(contestant: Contestant) -> Generator[None]:
    """Ours as job processes are set, peers as their own scripts leave torch."""
    if contestant.deterministic:
        settle_torch(0)
    torch.backends.cuda.matmul.allow_tf32 = contestant.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def _stand_ins() -> Generator[None]:
    """Modules without contents for what the peers log and draw with, where it is not installed."""
    absent = [n for n in (*LOGGING, "nnsight") if find_spec(n.partition(".")[0]) is None]
    for name in absent:
        module = types.ModuleType(name)
        module.__dict__.update(LanguageModel=object, Settings=object, Figure=object)
        module.__dict__.update(make_subplots=None, __path__=[])
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
