"""The trainer: runs any architecture over any source, yields events, knows no logger.

Rows of step s stand at position s · batch_size of the source's stream, and every draw is keyed by
(seed, step, purpose), so a resumed run is the undisturbed one, bit for bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from saeserve.core.architectures.contract import (
    Architecture,
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
)
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.data.preprocess import AnyPreprocessing
from saeserve.core.data.source import ActivationSource
from saeserve.core.errors import DataMismatchError, DivergedError, SpecError
from saeserve.core.ops.adam import AdamSettings
from saeserve.core.specs.training import DEAD_WINDOW_TOKENS, TrainSpec
from saeserve.core.training import checkpoint, dead
from saeserve.core.training.events import (
    CheckpointCommitted,
    Finished,
    MetricsReported,
    Stopped,
    TrainingEvent,
    Warned,
)
from saeserve.core.training.schedules import learning_rate
from saeserve.core.training.starting import initial_state
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Optimizer, take_step

_ENCODER_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CheckpointSink(Protocol):
    """Where checkpoints go."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Call `write` with an empty folder, then make what it wrote durable; returns bytes."""
        ...


@dataclass(frozen=True)
class TrainingSetup:
    """A resolved spec and what it runs on.

    Rows of `source` hold the input, and beside it a transcoder's target.
    """

    spec: TrainSpec
    dims: Dimensions
    source: ActivationSource
    preprocessing: AnyPreprocessing
    device: torch.device
    initial: EvaluationForm | None = None
    """What a fresh start continues from, of the same rows and widths (`init_from`)."""


class OneRank:
    """The collective of a run on one rank: every sum is its own."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """`value` itself."""
        return value


class Trainer:
    """One training run; made by `start` or `resume`."""

    def __init__(
        self, setup: TrainingSetup, state: TrainerState, warnings: tuple[Warned, ...]
    ) -> None:
        """Use `start` or `resume`. `warnings` are the first events of `run`."""
        self._setup = setup
        self._state = state
        self._warnings = warnings
        self._architecture: Architecture[Any] = architecture_of(setup.spec)
        self._adam = _adam_settings(setup.spec)
        self._committed = -1 if state.step == 0 else state.step
        self._reported_at = time.perf_counter()

    @classmethod
    def start(cls, setup: TrainingSetup) -> Trainer:
        """A run from step 0, from a sample of the preprocessed rows or from `setup.initial`.

        Raises SpecError for a spec that is not resolved, DataMismatchError where the source's
        width is not d_in, and what `initial_state` raises.
        """
        _check(setup)
        spec, dims = setup.spec, setup.dims
        state = initial_state(
            spec, dims, setup.source, setup.preprocessing, setup.initial, setup.device
        )
        return cls(setup, state, _start_warnings(spec))

    @classmethod
    def resume(cls, setup: TrainingSetup, folder: Path) -> Trainer:
        """The run whose checkpoint stands in `folder`; raises CheckpointError if it cannot be."""
        _check(setup)
        loaded = checkpoint.load(folder, setup.spec, setup.dims, setup.device)
        return cls(setup, loaded.state, _resume_warnings(loaded))

    @property
    def spec(self) -> TrainSpec:
        """The resolved spec."""
        return self._setup.spec

    @property
    def step(self) -> int:
        """Steps done."""
        return self._state.step

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.spec.steps

    @property
    def state(self) -> TrainerState:
        """The live state; training updates it in place."""
        return self._state

    def run(self, sink: CheckpointSink, stop: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """Train to the end, or until `stop()` is true before a step; the last event says which.

        Raises DivergedError at a report whose loss is not finite, and instead of committing a
        checkpoint that holds NaN or Inf.
        """
        yield from self._warnings
        self._warnings = ()
        self._reported_at = time.perf_counter()
        while self.step < self.steps:
            if stop():
                yield from self._commit(sink)
                yield Stopped(self.step)
                return
            self._train_step()
            done = self.step == self.steps
            if done or self.step % self.spec.log_every_steps == 0:
                yield self._report()
            if done or self.step % self.spec.checkpoint_every_steps == 0:
                yield from self._commit(sink)
        yield Finished(self.step)

    def form(self) -> EvaluationForm:
        """The evaluation form of the parameters as they stand."""
        state = self._state
        return self._architecture.evaluation_form(
            self.spec.architecture, state.params, state.architecture
        )

    def dead_fraction(self) -> float:
        """Latents that fired on none of the last min(10 M, half the run) tokens (DESIGN 4)."""
        return dead.final_fraction(self._state.tokens_since_fired_F, self._state.tokens)

    def _train_step(self) -> None:
        optimizer = Optimizer(self._adam, self.spec.optimizer.clip_norm, self._rate(self.step))
        take_step(
            self._architecture,
            self.spec.architecture,
            self._state,
            self._micro_batches(),
            self._context(),
            optimizer,
        )

    def _micro_batches(self) -> Iterator[Batch]:
        spec, setup = self.spec, self._setup
        size = spec.micro_batch_size or spec.batch_size
        start = self.step * spec.batch_size
        for position in range(start, start + spec.batch_size, size):
            rows = setup.source.batch(position, size).to(setup.device)
            yield setup.dims.batch(setup.preprocessing.apply(rows))

    def _context(self) -> Context:
        spec = self.spec
        return Context(
            step=self.step,
            steps=self.steps,
            scheduled=self._architecture.scheduled(spec.architecture, self.step, self.steps),
            dead_F=self._dead(),
            seed=spec.seed,
            collective=OneRank(),
            encoder_dtype=_ENCODER_DTYPES[spec.encoder_dtype],
        )

    def _dead(self) -> Tensor:
        return dead.mask(self._state.tokens_since_fired_F, self.spec.dead_window_tokens)

    def _rate(self, step: int) -> float:
        settings = self.spec.optimizer
        return learning_rate(
            step,
            self.steps,
            peak=_resolved(settings.lr, "train.optimizer.lr"),
            warmup_steps=settings.warmup_steps,
            decay_fraction=settings.decay_fraction,
        )

    def _report(self) -> MetricsReported:
        """Read the meter; `step - 1` is the last step done, whose rates are reported."""
        last = self.step - 1
        sums = self._state.meter.read()
        rows, steps = sums.pop("rows"), sums.pop("steps")
        values = {name: sums[name] / steps for name in sums if name.startswith("loss")}
        if not all(math.isfinite(value) for value in values.values()):
            raise self._diverged(f"the loss is {values['loss']}")
        now = time.perf_counter()
        elapsed, self._reported_at = now - self._reported_at, now
        values |= {
            "fvu": sums["squared_error"] / sums["variation"] if sums["variation"] else math.nan,
            "l0": sums["fired"] / rows,
            "grad_norm": sums["grad_norm"] / steps,
            "tokens_per_second": rows / elapsed,
            "dead": float(self._dead().sum()),
            "lr": self._rate(last),
            **self._architecture.scheduled(self.spec.architecture, last, self.steps),
        }
        return MetricsReported(self.step, self._state.tokens, values)

    def _commit(self, sink: CheckpointSink) -> Iterator[CheckpointCommitted]:
        if self.step == self._committed:
            return
        if not self._state.finite():
            raise self._diverged("a parameter or moment is not finite")
        setup, state = self._setup, self._state
        size = sink.commit(
            self.step, lambda folder: checkpoint.save(folder, state, setup.spec, setup.dims)
        )
        self._committed = self.step
        yield CheckpointCommitted(self.step, size)

    def _diverged(self, message: str) -> DivergedError:
        return DivergedError(
            self.step,
            message,
            remedy="lower optimizer.lr, lengthen warmup_steps, or look for outliers in the data",
        )


def _check(setup: TrainingSetup) -> None:
    dims = setup.dims
    wanted = dims.d_in + (dims.d_out if setup.spec.target_source is not None else 0)
    if setup.source.d != wanted:
        raise DataMismatchError(
            f"the source is {setup.source.d} wide and the model {wanted}",
            remedy="train on a source of the model's width",
        )
    _resolved(setup.spec.optimizer.lr, "train.optimizer.lr")


def _adam_settings(spec: TrainSpec) -> AdamSettings:
    settings = spec.optimizer
    eps = _resolved(settings.eps, "train.optimizer.eps")
    return AdamSettings(settings.beta1, settings.beta2, eps)


def _resolved(value: float | None, field: str) -> float:
    if value is None:
        raise SpecError(field, "is not resolved", remedy="call specs.training.resolve first")
    return value


def _start_warnings(spec: TrainSpec) -> tuple[Warned, ...]:
    window = spec.dead_window_tokens
    if window >= DEAD_WINDOW_TOKENS:
        return ()
    message = f"latents count as dead after {window:,} tokens instead of {DEAD_WINDOW_TOKENS:,}"
    return (Warned(0, "DEAD_WINDOW_LOWERED", message),)


def _resume_warnings(loaded: checkpoint.Checkpoint) -> tuple[Warned, ...]:
    now = checkpoint.Environment.current()
    if loaded.environment == now:
        return ()
    message = (
        "the result may differ in the last bits from an undisturbed run: the checkpoint is of "
        f"{loaded.environment.to_json()}, this process is {now.to_json()}"
    )
    return (Warned(loaded.state.step, "ENVIRONMENT_CHANGED", message),)
