"""JumpReLU's gradients by hand, from the few entries of [B, F] that are unlike the rest.

Usual entries are silent, all of them in the band or all below it; what they add is closed: the
pre-act loss is rank one, and the gradient for t needs the batch's error summed, for the band is the
batch without its complement. With `ste_to_input` the usual part of W_enc's gradient is
W_dec (sum_b e_b x_b^T), a product that no row enters. A `Pass` adds what the others differ by.
Source: autograd of the loss, against which it is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import Batch, Context, Stats, StepOutput, Tensors
from saeserve.core.architectures.jumprelu import penalty
from saeserve.core.architectures.jumprelu.loss import JumpRelu
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.kernels.compiled import usable
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu import passes
from saeserve.core.kernels.jumprelu.choose_pass import choose
from saeserve.core.kernels.jumprelu.passes import Firing, Gradients, Pricing
from saeserve.core.ops.norms import source_norms, times_norm_gradient
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec


def possible(params: Tensors, batch: Batch) -> bool:
    """Whether kernels can run on these: see `kernels.compiled`."""
    return usable(*params.values(), batch.x_BD, batch.target_BO)


@dataclass(frozen=True)
class Sums:
    """Per latent [F], over the rows of the batch."""

    silent_F: Tensor
    """Entries that the pre-act loss presses."""
    depth_F: Tensor
    """Sum over them of theta - h, or of theta - f."""
    price_F: Tensor
    """d penalty / d p."""


class FastStep:
    """The gradients of one micro-batch."""

    def __init__(self, spec: JumpReluSpec, params: Tensors, batch: Batch, ctx: Context) -> None:
        self._spec, self._params, self._batch, self._ctx = spec, params, batch, ctx
        self._rows = batch.x_BD.shape[0]
        self._W_enc, self._W_dec, self._b_enc = params["W_enc"], params["W_dec"], params["b_enc"]
        self._threshold_F = params["t"].exp()
        self._norms_F = self._decoder_norms()
        self._x_sum_D = batch.x_BD.sum(0)

    def output(self, state: Tensors) -> StepOutput:
        """Loss terms and gradients of the batch; `state` is returned unchanged."""
        spec, rows = self._spec, self._rows
        firing, error_BO, squared_error = self._forward()
        sparsity, price_F = penalty.price(spec, self._ctx, self._firing_rate(firing))
        sums = self._pre_act(firing, price_F)
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": sparsity,
            "pre_act": spec.pre_act_coefficient * (sums.depth_F * self._norms_F).sum() / rows,
        }
        grads = self._gradients(firing, sums, error_BO)
        terms |= self._add_auxk(grads, error_BO)
        loss = torch.stack(list(terms.values())).sum()
        stats = Stats(firing.counts_F, squared_error)
        # After the gradients of what was reconstructed: `error_BO` is the step's own.
        to_target_BO = 2 / rows * error_BO if self._batch.target_gradient else None
        return StepOutput(loss, terms, {**grads}, state, stats, to_target_BO)

    def _decoder_norms(self) -> Tensor:
        return source_norms(self._W_dec, self._batch.target_widths)

    def _forward(self) -> tuple[Firing, Tensor, Tensor]:
        """How each latent fired, the errors and the sum of their squares, by the way that takes the
        least time."""
        dtype, spec = self._ctx.encoder_dtype, self._spec
        encoder = Encoder(self._batch.x_BD, self._W_enc, self._b_enc, dtype)
        levels = (self._threshold_F, spec.bandwidth / 2)
        self._way = choose(encoder, *levels, band_to_input=spec.ste_to_input)
        y_BO = self._params["b_dec"].repeat(self._rows, 1)
        firing = self._way.forward(y_BO, self._W_dec, self._threshold_F, self._tanh_scale())
        error_BO = torch.sub(self._batch.target_BO, y_BO, out=y_BO)
        return firing, error_BO, error_BO.square().sum()

    def _tanh_scale(self) -> Tensor:
        """tanh is taken of this times f; 0 stands for a penalty that has none."""
        if self._spec.penalty != "tanh":
            return torch.zeros_like(self._norms_F)
        return self._spec.tanh_scale * self._norms_F

    def _firing_rate(self, firing: Firing) -> Tensor:
        """p of `jumprelu`'s text."""
        if self._spec.penalty == "tanh":
            return firing.sums_FS[:, passes.FIRING] / self._rows
        return firing.counts_F.to(self._norms_F) / self._rows

    def _pre_act(self, firing: Firing, price_F: Tensor) -> Sums:
        """The sums over entries below the threshold, from all rows and those that are not."""
        if self._spec.literal_pre_act:
            silent_F = self._rows - firing.counts_F.to(self._norms_F)
            return Sums(silent_F, self._threshold_F * silent_F, price_F)
        below_F = self._rows - firing.sums_FS[:, passes.NOT_BELOW]
        if firing.depth_F is not None:
            return Sums(below_F, firing.depth_F, price_F)
        h_sum_F = torch.addmv(self._rows * self._b_enc, self._W_enc, self._x_sum_D)
        depth_F = self._threshold_F * below_F - (h_sum_F - firing.sums_FS[:, passes.ABOVE])
        return Sums(below_F, depth_F, price_F)

    def _pricing(self, sums: Sums) -> Pricing:
        spec, zero_F = self._spec, torch.zeros_like(self._norms_F)
        pressed_F = spec.pre_act_coefficient / self._rows * self._norms_F
        slope_F = self._threshold_F / spec.bandwidth
        return Pricing(
            threshold_F=self._threshold_F,
            firing_F=sums.price_F * self._tanh_scale() / self._rows,
            silent_F=pressed_F if spec.literal_pre_act else zero_F,
            below_F=zero_F if spec.literal_pre_act else pressed_F,
            to_input_F=slope_F if spec.ste_to_input else zero_F,
            tanh_scale_F=self._tanh_scale(),
            half_width=spec.bandwidth / 2,
            per_error=-2 / self._rows,
        )

    def _gradients(self, firing: Firing, sums: Sums, error_BO: Tensor) -> dict[str, Tensor]:
        pricing, way = self._pricing(sums), self._way
        error_sum_O = error_BO.sum(0)
        # d loss / d f, summed over the batch as if every entry were a usual one.
        usual_F = pricing.per_error * (self._W_dec @ error_sum_O)
        usual_F += self._rows * (pricing.firing_F - pricing.silent_F)
        usual_F *= way.usual_band
        to_W_enc = self._usual_encoder_gradient(pricing, way.usual_band, error_BO)
        to_norm_F, widths = self._to_norms(firing, sums), self._batch.target_widths
        to_W_dec = times_norm_gradient(to_norm_F, self._W_dec, widths)
        total = Gradients(to_W_enc, to_W_dec)
        found_FS = way.backward(pricing, error_BO, self._W_dec, total)
        to_b_enc = pricing.to_input_F * usual_F - self._rows * pricing.below_F
        band_F = usual_F + found_FS[:, passes.BAND]
        entries_F = self._rows * way.usual_band + found_FS[:, passes.IN_BAND]
        return {
            "W_enc": to_W_enc,
            "b_enc": to_b_enc + found_FS[:, passes.SHIFT],
            "t": self._threshold_gradient(sums, band_F, entries_F),
            "W_dec": to_W_dec,
            "b_dec": pricing.per_error * error_sum_O,
        }

    def _usual_encoder_gradient(self, pricing: Pricing, in_band: float, error_BO: Tensor) -> Tensor:
        if not (self._spec.ste_to_input and in_band):
            return torch.outer(-pricing.below_F, self._x_sum_D)
        by_f_F = pricing.firing_F - pricing.silent_F
        weights_F = pricing.to_input_F * by_f_F - pricing.below_F
        together_OD = (pricing.per_error * error_BO).T @ self._batch.x_BD
        to_W_enc = (pricing.to_input_F[:, None] * self._W_dec) @ together_OD
        return to_W_enc.addr_(weights_F, self._x_sum_D)

    def _to_norms(self, firing: Firing, sums: Sums) -> Tensor:
        """What reaches the norms of W_dec's rows, by tanh and the pre-act loss."""
        to_norm_F = self._spec.pre_act_coefficient / self._rows * sums.depth_F
        if self._spec.penalty == "tanh":
            slopes_F = firing.sums_FS[:, passes.SLOPES]
            to_norm_F += sums.price_F * self._spec.tanh_scale / self._rows * slopes_F
        return to_norm_F

    def _threshold_gradient(self, sums: Sums, band_F: Tensor, entries_F: Tensor) -> Tensor:
        """By t, from d loss / d f summed over the band, and the number of entries in it."""
        spec, threshold_F = self._spec, self._threshold_F
        pressed_F = spec.pre_act_coefficient / self._rows * self._norms_F * sums.silent_F
        slope_F = threshold_F / spec.bandwidth
        if spec.penalty == "tanh":
            return threshold_F * pressed_F - slope_F * band_F
        step_F = sums.price_F / self._rows * entries_F
        return threshold_F * pressed_F - slope_F * (threshold_F * band_F + step_F)

    def _add_auxk(self, grads: dict[str, Tensor], error_BO: Tensor) -> Tensors:
        """AuxK's term, differentiated by autograd over dead latents alone."""
        if not self._spec.auxk_coefficient:
            return {}
        dead_N = self._ctx.dead_F.nonzero().squeeze(1)
        names = ("W_enc", "b_enc", "W_dec")
        leaves = {name: self._params[name][dead_N].requires_grad_() for name in names}
        alive = torch.ones_like(dead_N, dtype=torch.bool)
        with torch.enable_grad():
            h_BN = torch.addmm(leaves["b_enc"], self._batch.x_BD, leaves["W_enc"].T)
            terms = auxk.dense_term(self._spec, h_BN, error_BO, leaves["W_dec"], alive)
        if dead_N.numel():
            found = torch.autograd.grad(terms["auxk"], list(leaves.values()))
            for name, gradient in zip(names, found, strict=True):
                grads[name].index_add_(0, dead_N, gradient)
        return {name: term.detach() for name, term in terms.items()}


class FastJumpRelu(JumpRelu):
    """JumpReLU whose gradients are taken by hand where kernels run: compiled ones on the CPU, and
    on a GPU those in Triton, without AuxK."""

    def gradients(
        self, spec: JumpReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Gradients of `loss`: by kernels where they can run, else by autograd."""
        tensors = (*params.values(), batch.x_BD, batch.target_BO)
        if spec.gpu_kernels and usable_on_device(*tensors):
            # Imports Triton, which is missing elsewhere.
            from saeserve.core.architectures.jumprelu.on_device import jumprelu

            return jumprelu(spec, params, state, batch, ctx)
        if possible(params, batch):
            return FastStep(spec, params, batch, ctx).output(state)
        return super().gradients(spec, params, state, batch, ctx)
