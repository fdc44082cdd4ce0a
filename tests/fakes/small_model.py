"""Small exported models with random weights."""

from __future__ import annotations

import torch

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    ModelConfig,
    ReluActivation,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)

Activation = TopKActivation | ThresholdActivation | ReluActivation


def small_model(
    activation: Activation, *, d_in: int = 6, d_sae: int = 20, seed: int = 0
) -> InferenceModel:
    """An autoencoder of d_in to d_sae with unit decoder rows."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    W_dec = torch.nn.functional.normalize(draw(d_sae, d_in), dim=1)
    source = TensorSource(name="resid_post.0", offset=0, d=d_in)
    threshold = draw(d_sae).abs() if activation.kind == "threshold" else None
    return InferenceModel(
        config=ModelConfig(
            architecture="topk" if activation.kind == "topk" else "jumprelu",
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            inputs=(source,),
            outputs=(source,),
            activation=activation,
        ),
        W_enc=draw(d_in, d_sae),
        b_enc=draw(d_sae),
        W_dec=W_dec,
        b_dec=draw(d_in),
        threshold=threshold,
        centre=torch.zeros(d_in),
        frequency=torch.zeros(d_sae),
        maximum=torch.zeros(d_sae),
    )
