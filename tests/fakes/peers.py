"""Files of other libraries, written without them, and what their models compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.foreign import Imported
from saeserve.core.peers.registry import import_model
from saeserve.core.specs.interchange import ImportFormat

D, D_SAE, K = 8, 24, 3
SAELENS: dict[str, Any] = {
    "architecture": "jumprelu",
    "d_in": D,
    "d_sae": D_SAE,
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.8.hook_resid_post"},
}


def weights(seed: int = 0, d_out: int = D) -> dict[str, Tensor]:
    """W_enc [d, F], b_enc, W_dec [F, d_out] with rows of any norm, b_dec, threshold."""
    draws = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(D, D_SAE, generator=draws),
        "b_enc": torch.randn(D_SAE, generator=draws),
        "W_dec": torch.randn(D_SAE, d_out, generator=draws),
        "b_dec": torch.randn(d_out, generator=draws),
        "threshold": torch.rand(D_SAE, generator=draws),
    }


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))


def write_saelens(folder: Path, tensors: Mapping[str, Tensor], **changes: Any) -> Path:  # noqa: ANN401 - any field
    """A SAELens folder; config fields as in SAELENS, but for `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**SAELENS, **changes}))
    write_safetensors(folder / "sae_weights.safetensors", tensors)
    return folder


def write_dictionary(folder: Path, kind: str, state: Mapping[str, object], **trainer: Any) -> Path:  # noqa: ANN401 - any field
    """A dictionary_learning folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"trainer": {"dict_class": kind, **trainer}, "buffer": {}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(dict(state), folder / "ae.pt")
    return folder


def read(folder: Path, format: ImportFormat, source: str | None = None) -> Imported:
    """Import what is there."""
    return import_model(ForeignFiles.at(folder), format, source)


def rows(count: int = 64) -> Tensor:
    """Raw rows [count, D] away from the origin."""
    draws = torch.Generator().manual_seed(99)
    return 2 * torch.randn(count, D, generator=draws) + 1.5


def assert_same(imported: Imported, features: Tensor, reconstruction: Tensor, x_BD: Tensor) -> None:
    """Features in the foreign units and reconstructions agree to 1e-5 of each row's largest."""
    assert bool((features != 0).any())
    expected_BF = features.double() * imported.feature_scale_F
    _close(imported.model.encode_dense(x_BD), expected_BF)
    _close(imported.model.reconstruct(x_BD), reconstruction)


def _close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    largest = expected.double().abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    assert float(((got.double() - expected.double()).abs() / largest).max()) < 1e-5
