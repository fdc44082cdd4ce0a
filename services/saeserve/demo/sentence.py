"""A sentence's activations, taken as a service that runs the language model would take them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from saeserve.client import Client, SparseFeatures
from saeserve.client.features import FloatArray
from saeserve.core.specs.sites import SiteSpec
from saeserve.demo.presets import LAYER
from saeserve.harvest.language_model import LanguageModel

SENTENCE = "In the beginning God created the heaven and the earth, and the program returned None."
TOP = 4
RATE_REPEATS = 500
"""The sentence is repeated this often to time the encode endpoint."""


def activations(model: LanguageModel) -> tuple[list[str], FloatArray]:
    """(tokens, activations [tokens, d_in]) of the sentence, BOS left out."""
    ids = model.tokenizer.ids(SENTENCE).tolist()
    bos = model.tokenizer.bos("prepend")
    prefix = [] if bos is None else [bos]
    site = SiteSpec(hook="resid_post", layer=LAYER)
    captured = model.capture(torch.tensor([[*prefix, *ids]]), [site])[site.source]
    rows = captured[0, len(prefix) :].float().cpu().numpy()
    return [model.tokenizer.text([token]) for token in ids], np.asarray(rows, np.float32)


def load(folder: Path, gguf_file: str) -> LanguageModel:
    """The demo's language model."""
    return LanguageModel.load(folder, gguf_file, torch.device("cpu"), "float32")


def strongest(features: SparseFeatures) -> list[str]:
    """For each token its strongest features, as text."""
    lines: list[str] = []
    for row in range(features.rows):
        indices, values = features.row(row)
        order = np.argsort(-values, kind="stable")[:TOP]
        lines.append("  ".join(f"{indices[i]}={values[i]:.1f}" for i in order))
    return lines


def encode_rate(client: Client, model: str, rows: FloatArray) -> tuple[float, int]:
    """(rows a second through the encode endpoint, from this one client; rows encoded)."""
    batch = np.tile(rows, (RATE_REPEATS, 1))
    client.encode(model, batch)  # loads the model
    start = time.perf_counter()
    client.encode(model, batch)
    return len(batch) / (time.perf_counter() - start), 2 * len(batch)
