"""The trainer: runs any architecture over any source, yields events, knows no logger.

Rows of step s stand at position s · batch_size of the source's stream, and every draw is keyed by
(seed, step, purpose), so a resumed run is the undisturbed one, bit for bit on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, EvaluationForm
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.ops.precision import encoder_dtype
from saeserve.core.ops.update import Optimizer
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import checkpoint, dead, notices, trial
from saeserve.core.training.calibrating import calibrated, fitting_half
from saeserve.core.training.environment import Environment
from saeserve.core.training.events import (
    CheckpointCommitted,
    Finished,
    MetricsReported,
    Stopped,
    TrainingEvent,
    Warned,
)
from saeserve.core.training.feed import Feed, Pace
from saeserve.core.training.judging import Judged, judge, training_form
from saeserve.core.training.resampling import Upcoming, resample
from saeserve.core.training.schedules import checkpoint_due, learning_rate
from saeserve.core.training.setup import OneRank, TrainingSetup, adam_settings, check, resolved
from saeserve.core.training.sparsity import Controller
from saeserve.core.training.starting import initial_state
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import take_step
from saeserve.errors import DivergedError

JUDGED_ROWS = 8192
"""Rows on which a run is judged that holds none out: those that would have come next."""


class CheckpointSink(Protocol):
    """Where checkpoints go."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Call `write` with an empty folder, then make what it wrote durable; returns bytes."""
        ...


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
        self._controller = Controller(setup.spec)
        self._adam = adam_settings(setup.spec)
        self._encoder_dtype = encoder_dtype(setup.spec, setup.device)
        self._committed = -1 if state.step == 0 else state.step
        self.feed = Feed(setup.source, setup.preprocessing, setup.dims, setup.device)
        self._pace = Pace(self.feed)

    @classmethod
    def start(cls, setup: TrainingSetup) -> Trainer:
        """A run from step 0, from a sample of the preprocessed rows or from `setup.initial`.

        Raises SpecError for a spec that is not resolved, DataMismatchError where the source's
        width is not d_in, and what `initial_state` raises.
        """
        check(setup)
        spec, dims = setup.spec, setup.dims
        state = initial_state(
            spec, dims, setup.source, setup.preprocessing, setup.initial, setup.device
        )
        return cls(setup, state, notices.of_start(spec))

    @classmethod
    def resume(cls, setup: TrainingSetup, folder: Path) -> Trainer:
        """The run whose checkpoint stands in `folder`; raises CheckpointError if it cannot be,
        DataMismatchError where its data set is another by now."""
        check(setup)
        loaded = checkpoint.load(folder, setup.spec, setup.dims, setup.device, setup.data_sha256)
        return cls(
            setup, loaded.state, notices.of_resume(loaded, Environment.of(setup.spec, setup.device))
        )

    @property
    def spec(self) -> TrainSpec:
        """The resolved spec."""
        return self._setup.spec

    @property
    def effective_spec(self) -> TrainSpec:
        """The spec with what was left to the hardware as it is here."""
        dtype = str(self._encoder_dtype).removeprefix("torch.")
        return self.spec.model_copy(update={"encoder_dtype": dtype})

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
        yield from self.opening()
        while self.step < self.steps:
            if stop():
                yield from self._commit(sink)
                yield Stopped(self.step)
                return
            yield from self.advance()
            if checkpoint_due(self.step, self.spec):
                yield from self._commit(sink)
        yield Finished(self.step)

    def opening(self) -> Iterator[Warned]:
        """What is to be reported before the next step; the clock of the next report starts."""
        yield from self._warnings
        self._warnings = ()
        yield from trial.of(self._setup, self._state, self._context(), self._optimizer(), self.feed)
        self._pace.restart()

    def advance(self) -> Iterator[MetricsReported]:
        """Take one step, and report where it is time; raises DivergedError as `run` does."""
        self._train_step()
        if self.step == self.steps or self.step % self.spec.log_every_steps == 0:
            yield self._report()

    def check_finite(self) -> None:
        """Raise DivergedError where the state holds NaN or Inf: it is not to be committed."""
        if not self._state.finite():
            raise self._diverged("a parameter or moment is not finite")

    def save(self, folder: Path) -> None:
        """Write the state into the empty `folder`; committing it is the caller's."""
        setup = self._setup
        checkpoint.save(folder, self._state, self.spec, setup.dims, setup.data_sha256)

    def form(self) -> EvaluationForm:
        """The evaluation form of the parameters as they stand."""
        state = self._state
        return self._architecture.evaluation_form(
            self.spec.architecture, state.params, state.architecture
        )

    def dead_fraction(self) -> float:
        """`dead_fraction` of docs/DESIGN.md, "Definitions"."""
        return dead.final_fraction(self._state.tokens_since_fired_F, self._state.tokens)

    def calibrated(self, heldout: Iterable[Tensor]) -> EvaluationForm | None:
        """`form` with its L0 corrected on prepared `heldout` blocks, or None: see `calibrating`."""
        if (asked := self.spec.asked_l0) is None:
            return None
        fitted = (each.x_BD for each in self._batches_of(map(fitting_half, heldout)))
        return calibrated(self.form(), fitted, asked)

    def judged(self, form: EvaluationForm, heldout: Iterable[Tensor] | None = None) -> Judged:
        """How `form` and the training form do on prepared `heldout` rows, without them on
        those that come next; both by micro-batches at most."""
        following = self._micro_batches(max(self.spec.batch_size, JUDGED_ROWS))
        batches = following if heldout is None else self._batches_of(heldout)
        trained = training_form(
            self._architecture, self.spec.architecture, self._state, self._context()
        )
        return judge(form, trained, batches)

    def _batches_of(self, blocks: Iterable[Tensor]) -> Iterator[Batch]:
        size = self.spec.micro_batch_size or self.spec.batch_size
        for rows in blocks:
            for i in range(0, len(rows), size):
                yield self._setup.dims.batch(rows[i : i + size].to(self._setup.device))

    def _optimizer(self) -> Optimizer:
        return Optimizer(self._adam, self.spec.optimizer.clip_norm, self._rate(self.step))

    def _train_step(self) -> None:
        state = self._state
        l0 = take_step(
            self._architecture,
            self.spec.architecture,
            state,
            self._micro_batches(self.spec.batch_size),
            self._context(),
            self._optimizer(),
        )
        state.control = self._controller.after_step(state.control, l0, state.step)
        self._resample()

    def _resample(self) -> None:
        spec, state = self.spec, self._state
        if spec.resample is None or state.step not in spec.resample.steps:
            return
        rows = min(spec.resample.rows, self._setup.source.rows)
        block = spec.micro_batch_size or spec.batch_size
        upcoming = Upcoming(self.feed.read, state.tokens, rows, block, spec.seed)
        dead_F, fraction = self._neglected(), spec.resample.fraction
        count = resample(self._architecture, spec.architecture, state, dead_F, upcoming, fraction)
        state.meter.add({"resampled": count})

    def _micro_batches(self, rows: int) -> Iterator[Batch]:
        """The next `rows` rows, by micro-batches; the last may be smaller."""
        size = self.spec.micro_batch_size or self.spec.batch_size
        start = self.step * self.spec.batch_size
        for position in range(start, start + rows, size):
            yield self.feed.read(position, min(size, start + rows - position))

    def _context(self) -> Context:
        spec = self.spec
        return Context(
            step=self.step,
            steps=self.steps,
            scheduled=self._scheduled(self.step),
            dead_F=self._neglected(),
            seed=spec.seed,
            collective=OneRank(),
            encoder_dtype=self._encoder_dtype,
            control=self._controller.control(self._state.control, self.step),
        )

    def _scheduled(self, step: int) -> dict[str, float]:
        """The architecture's schedules, without the weight whose ramp a controller replaces."""
        found = self._architecture.scheduled(self.spec.architecture, step, self.steps)
        return {name: value for name, value in found.items() if name != self._controller.replaces}

    def _neglected(self) -> Tensor:
        """Dead latents that were not resampled within the window either: what AuxK and resampling
        act on. AuxK would turn a latent that was just resampled away from its row."""
        counter_F = self._state.tokens_since_fired_or_resampled_F
        return dead.mask(counter_F, self.spec.dead_window_tokens)

    def _rate(self, step: int) -> float:
        settings = self.spec.optimizer
        return learning_rate(
            step,
            self.steps,
            peak=resolved(settings.lr, "train.optimizer.lr"),
            warmup_steps=settings.warmup_steps or 0,
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
        values |= {
            "fvu": sums["squared_error"] / sums["variation"] if sums["variation"] else math.nan,
            "l0": sums["fired"] / rows,
            "grad_norm": sums["grad_norm"] / steps,
            **self._pace.values(rows),
            "dead": dead.count(self._state.tokens_since_fired_F, self.spec.dead_window_tokens),
            "lr": self._rate(last),
            **self._scheduled(last),
            **self._controller.values(self._state.control, self.step),
            **{name: sums[name] for name in ("resampled",) if name in sums},
        }
        return MetricsReported(self.step, self._state.tokens, values)

    def _commit(self, sink: CheckpointSink) -> Iterator[CheckpointCommitted]:
        if self.step == self._committed:
            return
        self.check_finite()
        size = sink.commit(self.step, self.save)
        self._committed = self.step
        yield CheckpointCommitted(self.step, size)

    def _diverged(self, message: str) -> DivergedError:
        return DivergedError(
            self.step,
            message,
            remedy="lower optimizer.lr, lengthen warmup_steps, or look for outliers in the data",
        )
