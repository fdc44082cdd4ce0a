"""What a contestant's process does in its turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from bench import ours
from bench.peers.registry import TOPK_PEERS
from bench.peers.setting import LEARNED_WIDTHS, PeerSetting, Schedule, Start
from bench.planted.recovery import Dictionary
from bench.smollm2 import heldout_figures
from bench.training.contestant import LIMIT, NAMES, OURS, Contestant, decay_steps, warmup_steps
from bench.training.limits import Limits
from bench.training.precision import jaccard
from bench.training.rows import Rows

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.lane import HostLane
from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import DEAD_WINDOW_TOKENS, TrainSpec
from saeserve.core.training.events import MetricsReported
from saeserve.core.training.sweep import OfMember, Sweep
from saeserve.core.training.trainer import Trainer

SMALL = {"d_sae": 1024, "batch": 256, "steps": 4, "turn_steps": 2, "start": "", "evaluate": False}


class Runner(Protocol):
    """A contestant at work."""

    def turn(self) -> dict[str, float]:
        """Do the next turn; its `seconds`."""
        ...

    def finish(self) -> dict[str, float]:
        """Held-out figures after the last turn."""
        ...

    def save(self, path: Path) -> None:
        """Write what others can start from, where there is such a thing."""
        ...


def runner_of(contestant: Contestant, rows: Rows) -> Runner:
    """The contestant's runner, after a small run of the same kind has compiled what is compiled."""
    if contestant.system == LIMIT:
        return LimitRunner(contestant, rows)
    kind = _kind(contestant)
    small = kind(replace(contestant, **SMALL), rows)
    small.turn()
    small.turn()
    return kind(contestant, rows)


def _kind(contestant: Contestant) -> type[OurRunner | SweepRunner | PeerRunner]:
    if contestant.system != OURS:
        return PeerRunner
    return SweepRunner if contestant.members > 1 else OurRunner


class OurRunner:
    """Our trainer's own loop: rows read, centred and scaled, step, counters, meter, a report a
    turn. It is asked for no checkpoint before the last step."""

    def __init__(self, contestant: Contestant, rows: Rows) -> None:
        self._contestant, self._rows = contestant, rows
        # Rows are centred and scaled already; the arithmetic is done all the same.
        self._preprocessing = Preprocessing(torch.zeros(rows.d), 1.0)
        spec, initial = our_spec(contestant, rows.d), _initial(contestant)
        self._trainer = Trainer.start(ours.setup(spec, rows, self._preprocessing, initial))
        self._events = self._trainer.run(ours.NoCheckpoints(), lambda: False)

    def turn(self) -> dict[str, float]:
        began, before = time.perf_counter(), self._rows.rows_read
        report = _next_report(self._events)
        seconds = time.perf_counter() - began
        shown = {name: report.values[name] for name in ("l0", "dead", "fvu")}
        read = self._rows.rows_read - before
        return {"seconds": seconds, "rows_read": read, **shown}

    def finish(self) -> dict[str, float]:
        dictionary = Dictionary.of(ours.exported(self._trainer, self._preprocessing))
        found = heldout_figures(dictionary, self._rows.heldout())
        if self._contestant.dtype == "bfloat16":
            found["jaccard"] = jaccard(self._trainer, self._rows)
        return found

    def save(self, path: Path) -> None:
        form = self._trainer.form()
        if form.threshold_F is None:
            raise NotImplementedError("only a JumpReLU can be handed on")
        start = Start(form.W_enc_FD, form.b_enc_F, form.W_dec_FO, form.b_dec_O, form.threshold_F)
        start.save(path)


class SweepRunner:
    """Our sweep's own loop; its members differ in their seeds."""

    def __init__(self, contestant: Contestant, rows: Rows) -> None:
        self._contestant, self._rows = contestant, rows
        spec = our_spec(contestant, rows.d)
        shared = PreparedRows(rows, Preprocessing(torch.zeros(rows.d), 1.0), HostLane())
        setups = {
            f"seed{n}": ours.setup(spec.model_copy(update={"seed": n}), shared, AsTheyAre())
            for n in range(contestant.members)
        }
        self._events = Sweep.start(shared, setups).run(ours.NoCheckpoints(), lambda: False)

    def turn(self) -> dict[str, float]:
        began, before = time.perf_counter(), self._rows.rows_read
        for _member in range(self._contestant.members):
            _next_report(event.event for event in self._events if isinstance(event, OfMember))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "rows_read": self._rows.rows_read - before}

    def finish(self) -> dict[str, float]:
        raise NotImplementedError("members are not evaluated")

    def save(self, path: Path) -> None:
        raise NotImplementedError(f"{path} has to be written by one of ours alone")


def our_spec(contestant: Contestant, d: int) -> TrainSpec:
    """The whole spec of one of ours.

    The dead window is set after `resolve`, which would lower it to a tenth of so short a run.
    """
    fields: dict[str, Any] = {
        contestant.architecture: _options(contestant),
        "d_sae": contestant.d_sae,
        "tokens": contestant.steps * contestant.batch,
        "batch_size": contestant.batch,
        "encoder_dtype": contestant.dtype,
        "target_l0": contestant.target_l0,
        "log_every_steps": contestant.turn_steps,
        "checkpoint_every_steps": contestant.steps,
        "optimizer": {"lr": contestant.lr, "warmup_steps": warmup_steps(contestant.steps)},
    }
    steps = contestant.dead_steps
    window = DEAD_WINDOW_TOKENS if steps is None else steps * contestant.batch
    return ours.resolved(fields, d).model_copy(update={"dead_window_tokens": window})


def _options(contestant: Contestant) -> dict[str, Any]:
    if contestant.architecture in ("jumprelu", "relu", "gated"):
        # Without a weight ours would be led to an L0 of 32; peers and older checkouts are not.
        penalty = ARCHITECTURE_SPECS[contestant.architecture].model_fields["sparsity_coefficient"]
        return {} if contestant.target_l0 else {"sparsity_coefficient": penalty.default}
    if contestant.architecture == "matryoshka":
        widths = [int(share * contestant.d_sae) for share in LEARNED_WIDTHS]
        return {"k": contestant.k, "widths": widths}
    return {"k": contestant.k}


def _initial(contestant: Contestant) -> EvaluationForm | None:
    if not contestant.start:
        return None
    start = Start.load(Path(contestant.start))
    return EvaluationForm(
        W_enc_FD=start.W_enc_FD,
        b_enc_F=start.b_enc_F,
        W_dec_FO=start.W_dec_FD,
        b_dec_O=start.b_dec_D,
        threshold_F=start.threshold_F,
    )


def _next_report(events: Iterator[object]) -> MetricsReported:
    return next(event for event in events if isinstance(event, MetricsReported))


class PeerRunner:
    """A peer's step; its rows are read before the clock starts."""

    def __init__(self, contestant: Contestant, rows: Rows) -> None:
        self._contestant, self._rows, self._done = contestant, rows, 0
        setting = peer_setting(contestant, rows.d, rows.header.root_mean_square)
        self._run = TOPK_PEERS[NAMES[contestant.system]](setting)

    def turn(self) -> dict[str, float]:
        size, first = self._contestant.batch, self._done
        self._done += self._contestant.turn_steps
        batches = [self._rows.batch(step * size, size) for step in range(first, self._done)]
        began = time.perf_counter()
        for x_BD in batches:
            self._run.step(x_BD)
        return {"seconds": time.perf_counter() - began}

    def finish(self) -> dict[str, float]:
        return heldout_figures(self._run.finish(), self._rows.heldout())

    def save(self, path: Path) -> None:
        raise NotImplementedError(f"{path} has to be written by ours")


def peer_setting(contestant: Contestant, d: int, root_mean_square: float) -> PeerSetting:
    """What a peer is asked; sparsify keeps its own learning rate, which belongs to SignSGD."""
    steps = contestant.steps
    return PeerSetting(
        architecture=contestant.architecture,
        d=d,
        d_sae=contestant.d_sae,
        k=contestant.k,
        steps=steps,
        batch_size=contestant.batch,
        seed=0,
        root_mean_square=root_mean_square,
        schedule=Schedule(contestant.lr, warmup_steps(steps), decay_steps(steps)),
        autocast=contestant.dtype == "bfloat16",
        dead_steps=contestant.dead_steps,
        start=Path(contestant.start) if contestant.start else None,
    )


class LimitRunner:
    """The machine's own speed at the contestant's shape."""

    def __init__(self, contestant: Contestant, rows: Rows) -> None:
        self._limits = Limits(rows.d, contestant.d_sae, contestant.batch)

    def turn(self) -> dict[str, float]:
        return self._limits.turn()

    def finish(self) -> dict[str, float]:
        return {}

    def save(self, path: Path) -> None:
        raise NotImplementedError(f"{path} has to be written by ours")
