"""SAELens and dictionary_learning on the samples of `make groundtruth`: `make groundtruth-peers`.

Reads our figures from results/groundtruth.json, after making sure that the samples are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.groundtruth import BASELINE, FIGURES, OPTIMIZER, OURS, draw, fingerprints
from bench.peers.registry import PEERS
from bench.peers.setting import Architecture, PeerSetting, Schedule
from bench.planted.setting import K, Planted
from bench.results import FOLDER, Results, Run, table
from bench.tasks import Task, run_all
from bench.verdicts import best_margin, judge

ARCHITECTURES: tuple[Architecture, ...] = ("topk", "batchtopk", "matryoshka")
VARIANTS = ("default", "our rate")
COUNTERPARTS = {"topk": "openai-topk-2024", "batchtopk": "batchtopk", "matryoshka": "matryoshka"}
"""Ours of the same architecture and recipe."""
MARGIN = 0.05
"""Our best preset's F1 has to exceed that of the best peer run by this."""


def train_peer(
    library: str, architecture: Architecture, variant: str, planted: Planted
) -> dict[str, float]:
    """The figures of one peer's run."""
    truth = planted.truth()
    source = planted.source(truth)
    sample_ND = source.sample(8192, seed=0)
    ours = Schedule(
        lr=OPTIMIZER["lr"],
        warmup_steps=int(OPTIMIZER["warmup_steps"]),
        decay_steps=round(OPTIMIZER["decay_fraction"] * planted.steps),
    )
    run = PEERS[library](
        PeerSetting(
            architecture=architecture,
            d=source.d,
            d_sae=planted.d_sae,
            k=K,
            steps=planted.steps,
            batch_size=planted.batch_size,
            seed=planted.seed,
            root_mean_square=float(sample_ND.square().sum(dim=1).mean().sqrt()),
            schedule=ours if variant == "our rate" else None,
        )
    )
    for step in range(planted.steps):
        run.step(source.batch(step * planted.batch_size, planted.batch_size))
    return planted.recovery(run.finish(), truth).metrics()


def tasks(
    libraries: Sequence[str], architectures: Sequence[Architecture], known: Results
) -> list[Task]:
    """Every library, architecture and variant, for every seed of our results."""
    return [
        Task(
            library,
            architecture,
            variant,
            int(seed),
            partial(
                train_peer,
                library,
                architecture,
                variant,
                Planted(int(seed), known.setting["samples"]),
            ),
        )
        for seed in known.fingerprints
        for library in libraries
        for architecture in architectures
        for variant in VARIANTS
    ]


def our_results(path: Path) -> Results:
    """What `make groundtruth` found; ends the program where it cannot be compared with
    the peers."""
    if not path.exists():
        sys.exit(f"{path} is missing: run `make groundtruth` first")
    found = Results.load(path)
    seeds = [int(seed) for seed in found.fingerprints]
    if fingerprints(seeds, found.setting["samples"]) != found.fingerprints:
        sys.exit(
            f"{path} is of other samples than this program draws: run `make groundtruth` again"
        )
    return found


def main() -> None:
    """Train the peers, print the table and the verdicts, write results/groundtruth_peers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libraries", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ours", type=Path, default=FOLDER / "groundtruth.json")
    parser.add_argument("--out", type=Path, default=FOLDER / "groundtruth_peers.json")
    parser.add_argument("--resume", action="store_true", help="keep the runs that --out holds")
    asked = parser.parse_args()
    known = our_results(asked.ours)
    results = Results("groundtruth-peers", known.setting, known.fingerprints, ())
    if asked.resume:
        results = results.kept(asked.out)
    draw([int(seed) for seed in known.fingerprints], known.setting["samples"])
    wanted = tasks(asked.libraries, asked.architectures, known)
    runs = run_all(wanted, asked.processes, results, asked.out).runs
    everything: tuple[Run, ...] = (*known.runs, *runs)
    print(table(everything, FIGURES))
    learned = [run for run in everything if run.library != BASELINE]
    for figure in ("f1", "mcc"):
        print(judge(learned, figure, OURS, COUNTERPARTS, higher_is_better=True))
    print(best_margin(learned, "f1", OURS, MARGIN))


if __name__ == "__main__":
    main()
