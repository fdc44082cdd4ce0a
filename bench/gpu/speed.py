"""Our steps and the peers', turn about on the same rows, at the shapes that users train.

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
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import torch
from bench.gpu.lab import Lab, Record, Shape, batches, failure, planted_rows, spread
from bench.gpu.ours import NEVER, advance, spec_of, trainer_of
from bench.peers.registry import PEERS, TOPK_PEERS
from bench.peers.setting import Architecture, PeerSetting, Schedule
from torch import Tensor

from saeserve.worker.runners.devices import settle_torch

Step = Callable[[Tensor], object]
Start = Callable[[Lab, Shape, Tensor], Step]
ROUNDS, WARM = 4, 3
TURN_S = 0.25
MODES = {"fp32": (False, False), "tf32": (False, True), "autocast": (True, False)}
"""Whether a peer runs under autocast, and whether its products use TF32."""
FASTEST = ("autocast",)
SELECTING = ("topk", "batchtopk", "matryoshka")
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


@dataclass(frozen=True)
class Race:
    """An architecture at one shape, and who takes part."""

    shape: str
    architecture: Architecture
    contestants: tuple[Contestant, ...]


def races() -> tuple[Race, ...]:
    """The most important first, for the time is limited."""
    return (
        Race("S1", "topk", (*_ours_topk(), *_peers("topk", TOPK_PEERS))),
        Race("S3", "jumprelu", (*_ours_by_type("jumprelu"), *_peers("jumprelu", PEERS))),
        Race("S2", "topk", (_ours("ours", "topk", {}), *_peers("topk", TOPK_PEERS, FASTEST))),
        Race("S1", "batchtopk", (_ours("ours", "batchtopk", {}), *_nested_peers("batchtopk"))),
        Race("S1", "matryoshka", (_ours("ours", "matryoshka", {}), *_nested_peers("matryoshka"))),
        Race("S1", "jumprelu", (*_ours_by_type("jumprelu"), *_peers("jumprelu", PEERS, FASTEST))),
        Race("S2 wide", "topk", (_ours("ours", "topk", {}),)),
        Race("S1", "relu", _ours_by_type("relu")),
        Race("S1", "gated", _ours_by_type("gated")),
    )


def run(lab: Lab) -> None:
    """All races, into lab.data["speed"]."""
    data: Record = {}
    lab.data["speed"] = data
    with _stand_ins():
        for race in races():
            shape, into = lab.shapes[race.shape], dict[str, Any]()
            data[f"{race.shape} {race.architecture}"] = into
            x = planted_rows(4 * shape.batch, shape.d, lab.device)
            _race(lab, into, race.contestants, shape, x)


def _ours_topk() -> tuple[Contestant, ...]:
    off = {"auxk_coefficient": 0.0}
    return (
        _ours("ours", "topk", {}),
        _ours("ours, no graphs", "topk", {}, graphs=False),
        _ours("ours, AuxK off", "topk", off),
        _ours("ours, AuxK off, float32", "topk", off, "float32"),
        _ours("ours, AuxK at work", "topk", {}, all_dead=True),
    )


def _ours_by_type(architecture: Architecture) -> tuple[Contestant, ...]:
    return (
        _ours("ours", architecture, {}),
        _ours("ours, float32", architecture, {}, "float32"),
    )


def _nested_peers(architecture: Architecture) -> tuple[Contestant, ...]:
    return _peers(architecture, PEERS, FASTEST)


def _ours(
    name: str,
    architecture: Architecture,
    fields: Mapping[str, Any],
    dtype: str = "auto",
    *,
    all_dead: bool = False,
    graphs: bool = True,
) -> Contestant:
    def start(lab: Lab, shape: Shape, x: Tensor) -> Step:
        chosen = {"k": shape.k} if architecture in SELECTING else {}
        start_at = {"b_dec_init": "mean"} if architecture == "topk" else {}
        whole = {architecture: {**fields, **chosen, **start_at}}
        spec = spec_of(whole, shape, steps=NEVER, dtype=dtype, all_dead=all_dead)
        trainer = trainer_of(spec, x, lab.device, graphs=graphs)
        return lambda _rows: advance(trainer, 1)

    return Contestant(name, start, deterministic=True)


def _peers(
    architecture: Architecture, names: Iterable[str], modes: Iterable[str] = tuple(MODES)
) -> tuple[Contestant, ...]:
    # sparsify chooses the precision of its encoder by itself.
    wanted = {name: ("fp32",) if name == "sparsify" else modes for name in names}
    return tuple(_contestant(name, architecture, mode) for name in wanted for mode in wanted[name])


def _contestant(name: str, architecture: Architecture, mode: str) -> Contestant:
    autocast, tf32 = MODES[mode]
    return Contestant(f"{name} {mode}", _peer(name, architecture, autocast=autocast), tf32=tf32)


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
    with settings(contestant):
        lab.times_ms(lambda n: step(rows[n % len(rows)]), 1 if lab.tiny else WARM)
    peak = lab.peak_bytes()
    runs.append(Run(contestant, step, peak_bytes=None if peak is None else peak - before))
    return {}


def _turn(lab: Lab, into: Record, entry: Run, rows: list[Tensor], round_: int) -> bool:
    """A turn of some steps; False, and a record of why, when one fails."""
    reps = 1 if lab.tiny or not entry.times else max(2, int(TURN_S * 1e3 / entry.times[-1]))
    try:
        with settings(entry.contestant):
            found = lab.times_ms(lambda n: entry.step(rows[n % len(rows)]), min(reps, 20), round_)
    except Exception as error:
        into[entry.contestant.name] |= failure(error)
        return False
    entry.times += found
    return True


@contextlib.contextmanager
def settings(contestant: Contestant) -> Generator[None]:
    """Ours as job processes are set, peers as their own scripts leave torch."""
    if contestant.deterministic:
        settle_torch(0)
    torch.backends.cuda.matmul.allow_tf32 = contestant.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_deterministic_debug_mode("default")


@contextlib.contextmanager
def _stand_ins() -> Generator[None]:
    """Modules without contents for what the peers log and draw with, where it is not installed."""
    absent = [n for n in (*LOGGING, "nnsight") if find_spec(n.partition(".")[0]) is None]
    for name in absent:
        module = types.ModuleType(name)
        # Whether a module is installed is asked of its spec, which has to be there.
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(LanguageModel=object, Settings=object, Figure=object)
        module.__dict__.update(make_subplots=None, __path__=[])
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
