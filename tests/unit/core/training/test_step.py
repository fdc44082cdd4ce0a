"""One step: micro-batches, and the order projection, norm, clip, Adam, renormalisation."""

from __future__ import annotations

import torch
from tests.fakes.training import F, context, tiny_setup, tiny_spec
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.topk.loss import TopK
from saeserve.core.ops.adam import AdamSettings
from saeserve.core.ops.update import Optimizer
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import take_step
from saeserve.core.training.trainer import Trainer

OPTIMIZER = Optimizer(AdamSettings(0.9, 0.999, 1e-8), clip_norm=1.0, lr=0.01)


class Recorder(TopK):
    """TopK, keeping what it returned."""

    def __init__(self) -> None:
        self.outputs: list[StepOutput] = []

    def gradients(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        output = super().gradients(spec, params, state, batch, ctx)
        self.outputs.append(output)
        return output


def started() -> tuple[TrainerState, TopKSpec, Tensor]:
    spec = tiny_spec("topk")
    assert spec.topk is not None
    setup = tiny_setup(spec)
    state = Trainer.start(setup).state
    return state, spec.topk, setup.preprocessing.apply(setup.source.batch(0, 64))


def batches(x: Tensor, size: int) -> list[Batch]:
    return [
        Batch(x[start : start + size], x[start : start + size]) for start in range(0, len(x), size)
    ]


def test_micro_batches_make_the_step_of_the_whole_batch() -> None:
    found: list[dict[str, Tensor]] = []
    for size in (64, 16):
        state, spec, x = started()
        state.params = {name: value.double() for name, value in state.params.items()}
        state = TrainerState.initial(
            state.params, {k: v.double() for k, v in state.architecture.items()}, F
        )
        take_step(TopK(), spec, state, iter(batches(x.double(), size)), context(F), OPTIMIZER)
        found.append(state.tensors())
    whole, parts = found
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_the_order_of_a_step() -> None:
    state, spec, x = started()
    before = {name: value.clone() for name, value in state.params.items()}
    scaled = Optimizer(OPTIMIZER.adam, clip_norm=1e-3, lr=0.01)
    raw = TopK().gradients(spec, before, state.architecture, batches(x, 64)[0], context(F)).grads
    take_step(TopK(), spec, state, iter(batches(x, 64)), context(F), scaled)
    grads = {name: torch.as_tensor(raw[name]) for name in raw}
    along = (grads["W_dec"] * before["W_dec"]).sum(dim=1, keepdim=True)
    grads["W_dec"] = grads["W_dec"] - along * before["W_dec"]
    norm = torch.cat([gradient.flatten() for gradient in grads.values()]).square().sum().sqrt()
    assert float(along.abs().max()) > 1e-4
    torch.testing.assert_close(state.meter.sums["grad_norm"].float(), norm)
    for name, gradient in grads.items():
        clipped = gradient * (1e-3 / norm)
        torch.testing.assert_close(state.moments.first[name], 0.1 * clipped, rtol=1e-4, atol=1e-9)
    norms = state.params["W_dec"].square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms, torch.ones(F))
    assert not torch.equal(state.params["W_dec"], before["W_dec"])


def test_a_step_counts_rows_and_the_latents_that_fired() -> None:
    state, spec, x = started()
    recorder = Recorder()
    take_step(recorder, spec, state, iter(batches(x, 16)), context(F), OPTIMIZER)
    fired = sum(output.stats.fired_F for output in recorder.outputs)
    assert len(recorder.outputs) == 4
    expected = torch.where(torch.as_tensor(fired) > 0, 0, 64)
    assert torch.equal(state.tokens_since_fired_F, expected)
    assert (state.step, state.tokens) == (1, 64)


def test_the_global_norm_does_not_depend_on_the_order_of_parameters() -> None:
    norms: list[float] = []
    for reverse in (False, True):
        state, spec, x = started()
        names = sorted(state.params, reverse=reverse)
        state.params = {name: state.params[name] for name in names}
        take_step(TopK(), spec, state, iter(batches(x, 64)), context(F), OPTIMIZER)
        norms.append(float(state.meter.sums["grad_norm"]))
    assert norms[0] == norms[1]
