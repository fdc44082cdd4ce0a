"""The parts of `make bench`: which contestants race, and in which settings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bench.peers.setting import Architecture
from bench.training.contestant import LIMIT, OURS, Contestant, Dtype, System
from bench.training.race import Racer, Result, Track, race

SETTLING_TURNS = 1
"""Turns at the start of a race that no ratio counts."""
NARROW_WIDTHS = (4096, 16_384)
WIDE_WIDTHS = (65_536, 131_072)
"""Where only ours runs: the peers would need minutes a step, or memory that is not there."""
BATCHES = {512: 8, 8192: 1}
"""Rows a step, and steps a turn."""
SCALING_PAIRS = 3
AUXK_DEAD_STEPS = 2
"""So short that latents are dead from the start: AuxK has all the work that it can have."""
PEER_SYSTEMS: tuple[System, ...] = ("saelens", "dictionary_learning", "sparsify")
SWEEP_MEMBERS = 8
SPARSE_L0 = 64
SPARSE_LR = 1e-5
"""Low, so that L0 stays where it is while the turns are timed."""
PREPARATION = {"batch": 512, "steps": 240, "turn_steps": 24, "target_l0": float(SPARSE_L0)}
"""Setting that brings a JumpReLU to L0 = 64: small batches, for the model is what is wanted."""


@dataclass(frozen=True)
class Setting:
    """The shape of the comparison."""

    d_sae: int = 9216
    k: int = 32
    batch: int = 2048
    lr: float = 1e-3
    turn_steps: int = 6
    pairs: int = 6
    peers_as_jobs: bool = False
    """Whether peers run in the environment of our job processes; the part `environment` shows which
    one is faster for them."""

    def contestant(
        self, system: System, architecture: Architecture, dtype: Dtype = "float32"
    ) -> Contestant:
        """One that trains in this setting."""
        return Contestant(
            system=system,
            architecture=architecture,
            dtype=dtype,
            d_sae=self.d_sae,
            k=SPARSE_L0 if architecture == "jumprelu" else self.k,
            batch=self.batch,
            steps=(SETTLING_TURNS + self.pairs) * self.turn_steps,
            turn_steps=self.turn_steps,
            lr=self.lr,
            as_job=system == OURS or (self.peers_as_jobs and system != LIMIT),
        )

    def field(self, architecture: Architecture) -> list[Contestant]:
        """All that train an architecture: ours between the peers, as near to each as can be."""
        low: Dtype = "bfloat16"
        found = [
            self.contestant(LIMIT, architecture),
            self.contestant(OURS, architecture),
            self.contestant("saelens", architecture),
            self.contestant(OURS, architecture, low),
            self.contestant("saelens", architecture, low),
            self.contestant("dictionary_learning", architecture),
        ]
        if architecture == "topk":
            found.append(self.contestant("sparsify", architecture))
        return found


Races = dict[str, list[Result]]
"""The results of a part's races by their names."""


def plain(architecture: Architecture) -> Callable[[Setting, Track], Races]:
    """Every system from its own initialisation."""

    def run(setting: Setting, track: Track) -> Races:
        return {architecture: race(setting.field(architecture), track)}

    return run


def alone(architecture: Architecture) -> Callable[[Setting, Track], Races]:
    """Ours compared with the limit, where no peer is raced."""

    def run(setting: Setting, track: Track) -> Races:
        field = [setting.contestant(system, architecture) for system in (LIMIT, OURS)]
        return {architecture: race(field, track)}

    return run


def auxk(setting: Setting, track: Track) -> Races:
    """TopK while AuxK is at work; sparsify leaves it off unless it is asked for."""
    short = replace(setting, turn_steps=4)
    field = [c for c in short.field("topk") if c.system != "sparsify"]
    return {"auxk": race([replace(c, dead_steps=AUXK_DEAD_STEPS) for c in field], track)}


def environment(setting: Setting, track: Track) -> Races:
    """Whether peers are faster in the environment of our job processes."""
    short = replace(setting, turn_steps=2, pairs=SCALING_PAIRS)
    found: Races = {}
    for system in PEER_SYSTEMS:
        peer = replace(short.contestant(system, "topk"), evaluate=False)
        both = [replace(peer, as_job=as_job) for as_job in (False, True)]
        found[f"environment_{system}"] = race(both, track)
    return found


def jumprelu(setting: Setting, track: Track) -> Races:
    """A whole run from the initialisation of the recipe, which dictionary_learning's is not."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "initial.pt"
        _prepare(setting.contestant(OURS, "jumprelu"), track, start, turns=0)
        field = setting.field("jumprelu")
        shared = [replace(c, start=str(start)) if c.system == "saelens" else c for c in field]
        return {"jumprelu": race(shared, track)}


def jumprelu_sparse(setting: Setting, track: Track) -> Races:
    """From a JumpReLU that has been led to L0 = 64: everybody from the same parameters."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "sparse.pt"
        prepared = replace(setting.contestant(OURS, "jumprelu"), **PREPARATION)
        _prepare(prepared, track, start, turns=prepared.turns)
        short = replace(setting, turn_steps=4, lr=SPARSE_LR)
        field = [replace(c, start=str(start)) for c in short.field("jumprelu")]
        return {"jumprelu_sparse": race(field, track)}


def _prepare(contestant: Contestant, track: Track, path: Path, turns: int) -> None:
    """Train one of ours by so many turns and keep what it has become."""
    with closing(Racer(contestant, track)) as racer:
        racer.await_ready()
        seen = [racer.ask("turn") for _ in range(turns)]
        if seen:
            print(f"  prepared: L0 {seen[-1]['l0']:.0f}, FVU {seen[-1]['fvu']:.3f}", flush=True)
        racer.ask(f"save {path}")


def sweep(setting: Setting, track: Track) -> Races:
    """Eight TopK that share their rows, compared with one that has them to itself."""
    short = replace(setting, turn_steps=4)
    alone = replace(short.contestant(OURS, "topk", "bfloat16"), evaluate=False)
    return {"sweep": race([replace(alone, members=SWEEP_MEMBERS), alone], track)}


def widths(setting: Setting, track: Track) -> Races:
    """TopK by d_sae."""
    short = replace(setting, turn_steps=2, pairs=SCALING_PAIRS)
    found: Races = {}
    for d_sae in (*NARROW_WIDTHS, *WIDE_WIDTHS):
        field = _scaling(replace(short, d_sae=d_sae), alone=d_sae in WIDE_WIDTHS)
        print(f" d_sae {d_sae}", flush=True)
        found[f"width_{d_sae}"] = race(field, track)
    return found


def batches(setting: Setting, track: Track) -> Races:
    """TopK by rows a step."""
    found: Races = {}
    for batch, turn_steps in BATCHES.items():
        short = replace(setting, batch=batch, turn_steps=turn_steps, pairs=SCALING_PAIRS)
        print(f" batch {batch}", flush=True)
        found[f"batch_{batch}"] = race(_scaling(short, alone=False), track)
    return found


def _scaling(setting: Setting, *, alone: bool) -> Sequence[Contestant]:
    """Nothing is evaluated after so few steps. `alone` leaves ours in bfloat16 and the limit."""
    field = [c for c in setting.field("topk") if not _left_out(c, alone=alone)]
    return [replace(c, evaluate=False) for c in field]


def _left_out(contestant: Contestant, *, alone: bool) -> bool:
    if alone:
        own = contestant.system == OURS and contestant.dtype == "bfloat16"
        return not own and contestant.system != LIMIT
    low_peer = contestant.system == "saelens" and contestant.dtype == "bfloat16"
    return low_peer or contestant.system == "dictionary_learning"


PARTS: Mapping[str, Callable[[Setting, Track], Races]] = {
    "topk": plain("topk"),
    "batchtopk": plain("batchtopk"),
    "matryoshka": plain("matryoshka"),
    "jumprelu_sparse": jumprelu_sparse,
    "jumprelu": jumprelu,
    "relu": alone("relu"),
    "gated": alone("gated"),
    "auxk": auxk,
    "sweep": sweep,
    "widths": widths,
    "batches": batches,
    "environment": environment,
}
