"""The other libraries' models as functions; imported by name, for they are not here to type."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tests.interop.compare import Functions
from torch import Tensor


def saelens(folder: Path) -> Functions:
    """`SAE.load_from_disk`."""
    return of_saelens(import_module("sae_lens").SAE.load_from_disk(folder))


def dictionary_learning(folder: Path) -> Functions:
    """`utils.load_dictionary`."""
    utils: Any = import_module("dictionary_learning.utils")
    model, _ = utils.load_dictionary(str(folder), device="cpu")
    return of_dictionary(model)


def sparsify(folder: Path) -> Functions:
    """`SparseCoder.load_from_disk`."""
    return of_sparse_coder(import_module("sparsify").SparseCoder.load_from_disk(folder))


LOADERS = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}


def of_saelens(sae: Any) -> Functions:  # noqa: ANN401 - any of its classes
    """An SAE of SAELens; its call adds what its decode leaves out (skip connections)."""
    return Functions(sae.encode, sae)


def of_dictionary(model: Any) -> Functions:  # noqa: ANN401 - any of its classes
    """A dictionary of dictionary_learning."""
    return Functions(model.encode, model)


def of_sparse_coder(coder: Any) -> Functions:  # noqa: ANN401 - it has no types
    """A SparseCoder, its selected latents as a dense matrix."""

    def encode(x_BD: Tensor) -> Tensor:
        encoded = coder.encode(x_BD)
        f_BF = torch.zeros(x_BD.shape[0], coder.num_latents)
        return f_BF.scatter(1, encoded.top_indices, encoded.top_acts)

    return Functions(encode, lambda x_BD: coder(x_BD, x_BD).sae_out)
