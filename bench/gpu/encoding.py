"""An exported model's encoder in kernels: compared with plain torch, and timed by batch.

Without Triton nothing runs, and on a CPU only in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from bench.gpu.kernels import impossible
from bench.gpu.lab import Lab, Record, Shape, planted_rows, relative
from torch import Tensor

from saeserve.core.export.device_model import DeviceModel, PackedFeatures
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    ModelConfig,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)

FORMS = {"S1": "topk", "S2": "topk", "S3": "threshold"}
BATCHES = (1, 64, 1024, 4096)
"""Rows of a batch of the inference service."""
TINY = Shape(24, 128, 3, 8)
"""An interpreted program takes milliseconds."""
CHECKED_ROWS = 256
"""Rows whose features are compared."""


def run(lab: Lab) -> None:
    """Each shape, into lab.data["encoding"]."""
    data: Record = {}
    lab.data["encoding"] = data
    if why := impossible(lab):
        data["all"] = {"skipped": why}
        return
    for name, form in FORMS.items():
        shape = TINY if lab.tiny else lab.shapes[name]
        lab.attempt(data, f"{name} {form}", lambda s=shape, f=form: measured(lab, s, f), 4.0)
        lab.free()


def measured(lab: Lab, shape: Shape, form: str) -> Record:
    """Milliseconds by batch, and how the features of some rows differ."""
    from saeserve.core.export.on_device import with_encoder

    batches = (1, 4) if lab.tiny else BATCHES
    x_BD = planted_rows(max(batches), shape.d, lab.device)
    model = with_encoder(model_of(lab, shape, form, x_BD))
    if not isinstance(model, DeviceModel) or model.encoder is None:
        return {"error": "kernels do not compute this form"}
    encoder = model.encoder
    encoder.note(2 * shape.k)
    some = x_BD[:CHECKED_ROWS]
    found, again = encoder.encode(some), encoder.encode(some)
    times = {rows: lab.ms(lambda _, n=rows: encoder.encode(x_BD[:n])) for rows in batches}
    return {
        "difference": relative(values(found), model.encode(some).values),
        "bit_equal": torch.equal(found.buffer, again.buffer),
        "ms": {str(rows): each["ms"] for rows, each in times.items()},
        "rows_per_s": 1e3 * max(batches) / times[max(batches)]["ms"],
    }


def values(found: PackedFeatures) -> Tensor:
    """Values of all features, row by row."""
    return torch.cat(list(_values(found)))


def _values(found: PackedFeatures) -> Iterator[Tensor]:
    start = 0
    for layout in found.layouts:
        end = start + layout.size
        stored = found.buffer[end - layout.room : end].view(torch.float32)
        yield stored[stored != 0]
        start = end


def model_of(lab: Lab, shape: Shape, form: str, x_BD: Tensor) -> InferenceModel:
    """Unit directions; thresholds that about k entries of a row exceed."""
    draws = torch.Generator(device=lab.device).manual_seed(3)
    drawn_FD = torch.randn(shape.m, shape.d, generator=draws, device=lab.device)
    W_FD = drawn_FD / drawn_FD.square().sum(1, keepdim=True).sqrt()
    zeros_F, zeros_D = W_FD.new_zeros(shape.m), W_FD.new_zeros(shape.d)
    activation = TopKActivation(k=shape.k) if form == "topk" else ThresholdActivation()
    source = TensorSource(name="rows", offset=0, d=shape.d)
    config = ModelConfig(
        architecture="topk" if form == "topk" else "jumprelu",
        d_in=shape.d,
        d_out=shape.d,
        d_sae=shape.m,
        inputs=(source,),
        outputs=(source,),
        activation=activation,
    )
    model = InferenceModel(
        config=config,
        W_enc=W_FD.T,
        b_enc=zeros_F + 0.01,
        W_dec=W_FD,
        b_dec=zeros_D,
        threshold=None,
        centre=zeros_D,
        frequency=zeros_F,
        maximum=zeros_F,
    )
    if form == "topk":
        return model
    least = (x_BD[:64] @ W_FD.T + 0.01).topk(shape.k, dim=1).values[:, -1].mean()
    return replace(model, threshold=zeros_F + least.clamp_min(0.0))
