"""The trainer: runs any architecture over any source, yields events, knows no logger.

Rows of step s stand at position s · batch_size of the source's stream, and every draw is keyed by
(seed, step, purpose), so a resumed run is the undisturbed one, bit for bit on the CPU.

On an accelerator the host queues steps, at most two ahead (`flight`), and waits for none: reports
come when their figures have arrived (`reports`), checkpoints are written meanwhile (`saving`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, EvaluationForm
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.data.lane import lane_to
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
from saeserve.core.training.flight import Flight
from saeserve.core.training.judging import JUDGED_ROWS, Judged, judge, training_form
from saeserve.core.training.reports import Cadence, Figures, Reports
from saeserve.core.training.resampling import Upcoming, resample
from saeserve.core.training.saving import Checkpoints
from saeserve.core.training.saving import CheckpointSink as CheckpointSink
from saeserve.core.training.schedules import learning_rate
from saeserve.core.training.setup import OneRank, TrainingSetup, adam_settings, check, resolved
from saeserve.core.training.sparsity import Controller
from saeserve.core.training.starting import initial_state
from saeserve.core.training.state import TrainerState
from saeserve.core.training.stepper import Stepper


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
        self._lane = setup.lane or lane_to(setup.device)
        rows = setup.source, setup.preprocessing
        self.feed = Feed(*rows, setup.dims, self._lane, setup.spec.tokens)
        self.pace = Pace(self.feed)
        window = setup.spec.dead_window_tokens
        self._flight = Flight(self._lane, state, window, setup.spec.batch_size)
        self._reports = Reports()
        self.stepper = Stepper(setup, state, self._lane)
        """Takes the steps; members of a sweep are given one recorder in common."""
        header = partial(checkpoint.header_of, state, setup.spec, setup.dims, setup.data_sha256)
        self.checkpoints = Checkpoints(self._lane, state, header)
        self.cadence = Cadence(self._lane)
        """When reports and checkpoints come; members of a sweep are given one in common."""

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

    def run(self, sink: CheckpointSink, stop: Callable[[], bool]) -> Generator[TrainingEvent]:
        """Train to the end, or until `stop()` is true before a step; the last event says which.
        Whoever leaves earlier closes the generator, which waits for a checkpoint being written.

        Raises DivergedError at a report whose loss is not finite, and instead of committing a
        checkpoint that holds NaN or Inf.
        """
        try:
            yield from self.opening()
            while self.step < self.steps:
                if stop():
                    yield from self._commit(sink, last=True)
                    yield Stopped(self.step)
                    return
                yield from self.advance()
                yield from self.checkpoints.finished(wait=False)
                if self.cadence.checkpoint_due(self.step, self.spec):
                    yield from self._commit(sink, last=self.step == self.steps)
            yield Finished(self.step)
        finally:
            self.stepper.release()
            self.checkpoints.leave()

    def opening(self) -> Iterator[Warned]:
        """What is to be reported before the next step; the clock of the next report starts."""
        yield from self._warnings
        self._warnings = ()
        context = self._context(None)
        yield from trial.of(self._setup, self._state, context, self._optimizer(), self.feed)
        self.choose_precision()
        self.pace.restart()

    def choose_precision(self) -> None:
        """Take float32 for what is exact in kernels alone, where they have been refused."""
        self._encoder_dtype = encoder_dtype(self._setup.spec, self._setup.device)

    def advance(self) -> Iterator[MetricsReported | Warned]:
        """Take one step, and report where it is time; raises DivergedError as `run` does."""
        self._train_step(self._flight.admit())
        if self.cadence.report_due(self.step, self.spec):
            self._reports.add(self._figures())
        self._flight.queued(self._state)
        self.feed.stepped()
        yield from self.stepper.warnings()
        yield from self._reports.arrived()

    def settle(self) -> Iterator[MetricsReported]:
        """Reports that have not arrived yet, waiting for them; raises DivergedError."""
        yield from self._reports.rest()

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
            self._architecture, self.spec.architecture, self._state, self._context(None)
        )
        return judge(form, trained, batches)

    def _batches_of(self, blocks: Iterable[Tensor]) -> Iterator[Batch]:
        size = self.spec.micro_batch_size or self.spec.batch_size
        for rows in blocks:
            for i in range(0, len(rows), size):
                yield self._setup.dims.batch(rows[i : i + size].to(self._setup.device))

    def _optimizer(self) -> Optimizer:
        return Optimizer(self._adam, self.spec.optimizer.clip_norm, self._rate(self.step))

    def _train_step(self, dead_bound: int | None) -> None:
        state = self._state
        rows = self._micro_batches(self.spec.batch_size)
        done = self.stepper.take(rows, self._context(dead_bound), self._optimizer())
        state.control = self._controller.after_step(state.control, done.l0, state.step)
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

    def _context(self, dead_bound: int | None) -> Context:
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
            dead_bound=dead_bound,
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

    def _figures(self) -> Figures:
        """What the next report is made of; `step - 1` is the last step done, whose rates count."""
        state, window = self._state, self.spec.dead_window_tokens
        sums = state.meter.take()
        figures = {
            **sums,
            "dead": dead.count(state.tokens_since_fired_F, window),
            **self._controller.figures(state.control, self.step),
        }
        known = {"lr": self._rate(self.step - 1), **self._scheduled(self.step - 1)}
        return Figures.take((self.step, state.tokens), self.pace.stretch(), figures, known)

    def _commit(
        self, sink: CheckpointSink, *, last: bool
    ) -> Iterator[MetricsReported | CheckpointCommitted]:
        """Commit the state, after all reports that lead to it."""
        yield from self.settle()
        since = self._lane.mark()
        yield from self.checkpoints.commit(sink, last=last)
        self.pace.leave_out(since)
