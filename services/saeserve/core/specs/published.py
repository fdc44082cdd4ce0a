"""Settings that papers publish, where they depend on the data's width.

Our rows have E|x| = sqrt(d_in) (PreprocessSpec.scale); papers that scale to E|x|^2 = 1 state
lengths that are sqrt(d_in) times smaller and squared errors that are d_in times smaller.
"""

from __future__ import annotations

import math


def rajamanoharan_2024(d_in: int) -> dict[str, dict[str, object]]:
    """JumpReLU of arXiv 2407.14435, section 5 and appendix I, as fields of a TrainSpec.

    Bandwidth and first threshold 0.001 at E|x|^2 = 1; unit decoder rows; no pre-act loss; Adam
    (0, 0.999) at 7e-5 after 1,000 warm-up steps (the paper's are a cosine from a tenth), no decay.
    The weight of the penalty is what the paper sweeps: set target_l0 in its place. The paper has
    billions of tokens for thresholds this small to grow; with fewer, keep this project's defaults.
    """
    length = 1e-3 * math.sqrt(d_in)
    return {
        "jumprelu": {
            "penalty": "l0",
            "bandwidth": length,
            "initial_log_threshold": math.log(length),
            "pre_act_coefficient": 0.0,
            "unit_norm": True,
        },
        "optimizer": {
            "lr": 7e-5,
            "beta1": 0.0,
            "beta2": 0.999,
            "eps": 1e-8,
            "warmup_steps": 1000,
            "decay_fraction": 0.0,
        },
    }
