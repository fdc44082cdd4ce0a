"""The part of sparsify 1.3 that the benchmarks drive; it ships no strict types."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

class SparseCoderConfig:
    def __init__(self, *, num_latents: int, k: int) -> None: ...

class EncoderOutput(NamedTuple):
    top_acts: Tensor
    top_indices: Tensor
    pre_acts: Tensor

class ForwardOutput(NamedTuple):
    sae_out: Tensor
    latent_acts: Tensor
    latent_indices: Tensor
    fvu: Tensor
    auxk_loss: Tensor
    multi_topk_fvu: Tensor

class SparseCoder:
    num_latents: int
    W_dec: Tensor
    b_dec: Tensor
    def __init__(
        self,
        d_in: int,
        cfg: SparseCoderConfig,
        *,
        device: str = ...,
        dtype: torch.dtype | None = ...,
    ) -> None: ...
    def __call__(
        self,
        x: Tensor,
        y: Tensor | None = ...,
        *,
        dead_mask: Tensor | None = ...,
        total_variance: Tensor | None = ...,
    ) -> ForwardOutput: ...
    def parameters(self) -> Iterator[Tensor]: ...
    def encode(self, x: Tensor) -> EncoderOutput: ...
    def set_decoder_norm_to_unit_norm(self) -> None: ...
    def remove_gradient_parallel_to_decoder_directions(self) -> None: ...
