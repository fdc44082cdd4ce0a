"""The logits that decoder rows move, beside what the language model's own final norm and output
embedding make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.fakes.tiny_families import tiny_family
from tests.fakes.tiny_models import CPU, save_tokenizer
from torch import Tensor, nn

from saeserve.core.features.neighbours import moved_logits
from saeserve.core.formats.model import TensorSource
from saeserve.errors import DataMismatchError
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.unembedding import folded_unembedding

D = 32
NORMS = {
    "llama": "model.norm",
    "gemma2": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}


def loaded(tmp_path: Path, family: str) -> tuple[LanguageModel, nn.Module]:
    model = tiny_family(family)
    norm = model.get_submodule(NORMS[family])
    with torch.no_grad():
        for weight in norm.parameters():
            weight.uniform_(0.2, 3.0, generator=torch.Generator().manual_seed(3))
    cast("Any", model).save_pretrained(str(tmp_path))
    save_tokenizer(tmp_path)
    return LanguageModel.load(tmp_path, None, CPU, "float32"), norm


def by_hand(model: LanguageModel, norm: nn.Module, W_dec_FD: Tensor) -> Tensor:
    """What the real norm makes of each row, its division undone, times the output embedding."""
    centred_FD = W_dec_FD - W_dec_FD.mean(1, keepdim=True)
    is_layer_norm = isinstance(norm, nn.LayerNorm)
    sized_FD = centred_FD if is_layer_norm else W_dec_FD
    eps = next(value for name, value in vars(norm).items() if "eps" in name)
    divisor_F1 = (sized_FD.square().mean(1, keepdim=True) + eps).sqrt()
    bias = norm.bias if is_layer_norm else 0.0
    with torch.no_grad():
        scaled_FD = (norm(W_dec_FD) - bias) * divisor_F1
        output = cast("Any", model.model).get_output_embeddings()
        logit_FV = scaled_FD @ output.weight.T
    return logit_FV - logit_FV.mean(1, keepdim=True)


@pytest.mark.parametrize("family", NORMS)
def test_logits_are_those_of_the_models_own_norm_and_embedding(tmp_path: Path, family: str) -> None:
    model, norm = loaded(tmp_path, family)
    # Rows of a mean that is not 0, which a layer norm takes off.
    W_dec_FD = torch.randn(12, D, generator=torch.Generator().manual_seed(1)) + 0.5
    source = TensorSource(name="resid_post.1", offset=0, d=D)
    found = moved_logits(W_dec_FD, folded_unembedding(model, (source,)), lambda: None, count=5)
    logit_FV = by_hand(model, norm, W_dec_FD)
    up, down = logit_FV.topk(5, dim=1), logit_FV.topk(5, dim=1, largest=False)
    for at, expected in enumerate((up, down)):
        assert (found.ids[:, at] == expected.indices.numpy()).all()
        amounts = expected.values.numpy()
        np.testing.assert_allclose(found.amounts[:, at], amounts, rtol=1e-4, atol=1e-5)


def test_a_model_that_writes_elsewhere_has_no_logits(tmp_path: Path) -> None:
    model, _ = loaded(tmp_path, "llama")
    narrow = TensorSource(name="attn_z.1", offset=0, d=D - 1)
    with pytest.raises(DataMismatchError, match="logits cannot be computed"):
        folded_unembedding(model, (narrow,))
