"""The demo's jobs, and what they scale down from the published recipes, and why.

Published runs see billions of tokens; the demo has a few minutes on two cores. So:

- tokens: 150 k harvested rows, read three times over, in place of billions read once;
- batch, learning rate and warm-up: the defaults, which are fitted to the run and the width;
- the L0 of JumpReLU: the default, in place of the published penalty;
- dead window: a tenth of the run, in place of 10 M tokens (the trainer lowers it and says so).

Everything else (centring, scaling, initialisation, losses, clipping, decay) is the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATASET = "demo-smollm2"
LAYER = 15
SOURCE = f"resid_post.{LAYER}"
HARVESTED_ROWS = 150_000
TOKENS = 400 * 1024

Spec = dict[str, Any]


@dataclass(frozen=True)
class SaePreset:
    """One SAE of the demo."""

    model: str
    title: str
    architecture: Spec
    d_sae: int


SAES = (
    SaePreset("demo-topk", "TopK", {"topk": {"k": 32}}, 4608),
    SaePreset("demo-jumprelu", "JumpReLU", {"jumprelu": {}}, 2304),
)


def harvest(gguf_file: str) -> Spec:
    """Residual stream after layer 15 of 30: half of the model need not run."""
    return {
        "harvest": {
            "dataset": DATASET,
            "language_model": {"path": "smollm2:.", "gguf_file": gguf_file},
            "texts": [{"path": "demo:texts", "format": "text"}],
            "sites": [{"hook": "resid_post", "layer": LAYER}],
            "context_length": 256,
            "max_tokens": HARVESTED_ROWS,
            "heldout_fraction": 0.15,
        }
    }


def train(preset: SaePreset) -> Spec:
    """Train one SAE; see the module's text for what is scaled down."""
    return {
        "train": {
            "dataset": DATASET,
            "source": SOURCE,
            "model": preset.model,
            **preset.architecture,
            "d_sae": preset.d_sae,
            "tokens": TOKENS,
            "checkpoint_every_steps": 500,
            "log_every_steps": 25,
        }
    }


def evaluate(preset: SaePreset) -> Spec:
    """Held-out figures, loss recovered, and a few features with their contexts."""
    return {
        "evaluate": {
            "model": preset.model,
            "dataset": DATASET,
            "source": SOURCE,
            "loss_recovered": {"max_tokens": 6144},
            "context_features": 5,
            "contexts_per_feature": 4,
        }
    }


def collect(preset: SaePreset) -> Spec:
    """What each feature fires on, for the explorer."""
    return {
        "collect": {
            "model": preset.model,
            "dataset": DATASET,
            "source": SOURCE,
            "logits": True,
        }
    }
