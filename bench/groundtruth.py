"""How much of a planted dictionary each of our presets recovers: `make groundtruth`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import ours
from bench.baseline import random_decoder
from bench.planted.recovery import Dictionary
from bench.planted.setting import SPEC, K, Planted, fingerprint
from bench.planted.truth import BLOCK_ROWS, GroundTruthSource
from bench.results import FOLDER, Results, table
from bench.tasks import Task, one_thread, run_all

from saeserve.core.specs.presets import PRESETS

OURS = "saeserve"
BASELINE = "random decoder"
FIGURES = ("f1", "mcc", "precision", "recall", "uniqueness", "silent", "explained_variance", "l0")
PREPROCESSING_ROWS = 64 * BLOCK_ROWS
OPTIMIZER = {"lr": 1e-2, "warmup_steps": 200, "decay_fraction": 1 / 3}
"""One schedule for all: published ones are for runs of a hundred times the steps. Chosen on other
seeds; the peers get it as well."""
DEAD_WINDOW_TOKENS = 50_000
"""A fortieth of the run; the rarest feature that has a latent fires 140 times in it."""


def preset_fields(name: str) -> dict[str, Any]:
    """A preset with the benchmark's sparsity: k, an annealed k in proportion, or target_l0."""
    for architecture, options in PRESETS[name].fields.items():
        if isinstance(options, dict) and "k" in options:
            sparsity: dict[str, Any] = {"k": K}
            if "k_initial" in options:
                sparsity["k_initial"] = K * options["k_initial"] / options["k"]
            return {"preset": name, architecture: sparsity}
    return {"preset": name, "target_l0": K}


MODELS: dict[str, dict[str, Any]] = {
    **{name: preset_fields(name) for name in PRESETS},
    "matryoshka": {"matryoshka": {"k": K}},
}
"""Every preset, and the plain Matryoshka that the peers' is compared with."""


def train_ours(name: str, planted: Planted) -> dict[str, float]:
    """The figures of one of our presets."""
    truth = planted.truth()
    head = GroundTruthSource(truth, min(PREPROCESSING_ROWS, planted.steps * BLOCK_ROWS))
    fields = MODELS[name] | {
        "d_sae": planted.d_sae,
        "tokens": planted.samples,
        "batch_size": planted.batch_size,
        "seed": planted.seed,
        "optimizer": OPTIMIZER,
        "dead_window_tokens": DEAD_WINDOW_TOKENS,
    }
    model = ours.train(fields, planted.source(truth), head)
    return planted.recovery(Dictionary.of(model), truth).metrics()


def train_baseline(planted: Planted) -> dict[str, float]:
    """The figures of frozen random directions."""
    truth = planted.truth()
    dictionary = random_decoder(
        planted.source(truth),
        d_sae=planted.d_sae,
        k=K,
        steps=planted.steps,
        batch_size=planted.batch_size,
        lr=OPTIMIZER["lr"],
        seed=planted.seed,
    )
    return planted.recovery(dictionary, truth).metrics()


def tasks(names: Sequence[str], seeds: Sequence[int], samples: int) -> list[Task]:
    """Every model and the baseline, for every seed."""
    found: list[Task] = []
    for seed in seeds:
        planted = Planted(seed, samples)
        found += [Task(OURS, n, "", seed, partial(train_ours, n, planted)) for n in names]
        found.append(Task(BASELINE, "topk", "", seed, partial(train_baseline, planted)))
    return found


def setting(samples: int) -> dict[str, Any]:
    """What was asked of every run."""
    planted = Planted(0, samples)
    return {
        "d": SPEC.d,
        "features": SPEC.features,
        "d_sae": planted.d_sae,
        "k": K,
        "samples": samples,
        "batch_size": planted.batch_size,
        "optimizer": OPTIMIZER,
        "dead_window_tokens": DEAD_WINDOW_TOKENS,
    }


def fingerprints(seeds: Sequence[int], samples: int) -> dict[str, str]:
    """Fingerprint of the samples of every seed."""
    return {str(seed): fingerprint(Planted(seed, samples).truth()) for seed in seeds}


def draw(seeds: Sequence[int], samples: int) -> None:
    """Make the rows of every seed, if they are not there."""
    one_thread()
    for seed in seeds:
        Planted(seed, samples).draw()


def main() -> None:
    """Train, print the table, write results/groundtruth.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER / "groundtruth.json")
    parser.add_argument("--resume", action="store_true", help="keep the runs that --out holds")
    asked = parser.parse_args()
    prints = fingerprints(asked.seeds, asked.samples)
    results = Results("groundtruth", setting(asked.samples), prints, ())
    if asked.resume:
        results = results.kept(asked.out)
    results.save(asked.out)
    draw(asked.seeds, asked.samples)
    wanted = tasks(asked.models, asked.seeds, asked.samples)
    print(table(run_all(wanted, asked.processes, results, asked.out).runs, FIGURES))


if __name__ == "__main__":
    main()
