"""results/training.json, the page results/training.md and its plots, from what was measured."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import FOLDER
from bench.training import bars, plots
from bench.training.contestant import LIMIT, NAMES
from bench.training.figures import fraction_of_limit, ratio, tokens_per_second, whole_run
from bench.training.limits import DTYPES
from bench.training.parts import (
    AUXK_DEAD_STEPS,
    PARTS,
    PREPARATION,
    SETTLING_TURNS,
    SPARSE_L0,
    SWEEP_MEMBERS,
)
from bench.training.race import Result
from bench.training.records import PARTS_FOLDER, ROWS_FILE, Part, known_races, save_rows
from bench.training.service_record import ServiceCost
from bench.training.sweep_record import SweepJobs

PAGE_FILE = FOLDER / "training.md"
HOW = """\
Every contestant is a process of its own with the same rows and as many threads as there are cores.
They take turns, one at work at a time; a ratio is that of two turns of the same round, given as the
median over rounds and their range. The first turn counts in whole runs alone. Inside the clock: for
ours the trainer's own loop (rows read, centred and scaled, step, clipping, Adam, renormalisation,
dead counters, meter, one report a turn), for SAELens `SAETrainer.step`, for dictionary_learning the
trainers' `update`, for sparsify what `Trainer.fit` does with a batch of activations
(`bench/peers/sparsify.py`). Learning rate, warm-up and decay are equal, but for sparsify's SignSGD,
which keeps its own. Peers are as their libraries come: float32, SAELens also with its bfloat16
autocast; dictionary_learning and sparsify have none on the CPU, and sparsify trains without AuxK.
Ours runs in the environment of a job process (`saeserve.worker.child`), the peers in the default
one; what ours would do for them stands below.

The limit is the time of one encoder GEMM of the row's type and of Adam's 28 bytes a parameter at
the measured bandwidth, both taken in every round. Peak memory is VmHWM, with interpreter and
libraries. FVU is that of held-out rows, after the same tokens for all, which are few: it shows that
the same is being done, not what a long run reaches."""
JUMPRELU = f"""\
`ste_to_input` is false for ours and for SAELens; neither subtracts b_dec from the input. Everybody
starts from the same JumpReLU, which ours has led to L0 ≈ {SPARSE_L0} (`target_l0`, batches of
{PREPARATION["batch"]}, {PREPARATION["steps"]} steps); the rate is so low that L0 stays there.
dictionary_learning trains its own recipe (`target_l0`), ours and SAELens that of January 2025."""
WHOLE = """\
From the recipe's initialisation, where some hundred latents fire, with the penalty rising to the
last step; `ste_to_input` is false for both. dictionary_learning starts as by itself. Speeds,
and the ratio in front of the range, are over every turn."""
AUXK = f"""\
A latent is dead after {AUXK_DEAD_STEPS} steps without firing, in ours and in the peers that have
AuxK, so that AuxK has all the work that it can have. In the table above none is dead yet (10 M
tokens, or the peer's own window)."""


SWEEP = f"""\
{SWEEP_MEMBERS} TopK that differ in their seeds take turns on the same rows, which are read, centred
and scaled once; next to one that has its rows and the caches to itself. Tokens a second count
every member's."""
SWEEP_JOBS = """\
From the submission until a client sees the end, one worker, default settings, every member as many
tokens as the data set has training rows. What a sweep saves is what each job does once (a process,
libraries, centre and scale, the evaluation's rows), so that longer jobs gain less."""


def main() -> None:
    """Write page, plots and training.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.training.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=PARTS_FOLDER)
    parser.add_argument("--out", type=Path, default=FOLDER)
    asked = parser.parse_args()
    files = [asked.results / f"{name}.json" for name in PARTS]
    parts = [Part.load(path) for path in files if path.exists()]
    if not parts:
        parser.error(f"{asked.results} holds no results: run `make bench` first")
    cost_file, jobs_file = asked.results / "service.json", asked.results / "sweep_jobs.json"
    cost = ServiceCost.load(cost_file) if cost_file.exists() else None
    jobs = SweepJobs.load(jobs_file) if jobs_file.exists() else None
    save_rows(parts, asked.out / ROWS_FILE.name)
    races = known_races(parts)
    drawn = plots.save(races, parts[0].rows["d"], asked.out)
    (asked.out / PAGE_FILE.name).write_text(page(parts, cost, jobs, drawn))
    print(f"wrote {asked.out / PAGE_FILE.name} and {asked.out / ROWS_FILE.name}")


def page(
    parts: Sequence[Part],
    cost: ServiceCost | None,
    jobs: SweepJobs | None,
    drawn: Sequence[str],
) -> str:
    """The whole text."""
    races, d_in = known_races(parts), parts[0].rows["d"]
    amx = bars.has_amx(parts[0].machine)
    verdicts = [
        *bars.speeds(races, amx=amx),
        *bars.limit_share(races, d_in, amx=amx),
        *bars.precision(races),
        *bars.sweep(races, jobs),
        *bars.largest(races),
        *bars.service(cost),
    ]
    sections = [
        "# Training speed",
        _about(parts),
        "## Verdicts",
        table(["what", "measured", "bar", "verdict"], [vars(v).values() for v in verdicts]),
        "\n".join(f"![{name}]({name})" for name in drawn),
        "## How it was measured",
        HOW,
    ]
    for name in ("topk", "auxk", "batchtopk", "matryoshka", "jumprelu_sparse", "jumprelu"):
        if name in races:
            sections += _race(name, races[name], d_in)
    sections += _scaling(races, d_in)
    sections += _environment(races)
    if "sweep" in races:
        sections += ["## A sweep", SWEEP, _sweep(races["sweep"])]
    if jobs is not None:
        sections += ["## A sweep as a job", SWEEP_JOBS, str(jobs)]
    sections += _limits(races)
    if cost is not None:
        sections += ["## One job through the services", str(cost)]
    return "\n\n".join(sections) + "\n"


def table(head: Sequence[str], lines: Sequence[Any]) -> str:
    """Markdown."""
    rows = [list(head), ["---"] * len(head), *([str(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _about(parts: Sequence[Part]) -> str:
    machine, rows, setting = parts[0].machine, parts[0].rows, parts[0].setting
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    minutes = sum(part.seconds for part in parts) / 60
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {setting['threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; CPU features: {', '.join(machine['features'])}"
        f" ({'AMX' if bars.has_amx(machine) else 'no AMX'}). {versions}.\n\n"
        f"Rows: {rows['dataset']}, {rows['source']} (d_in = {rows['d']}, {rows['train_rows']} of "
        f"them). Unless said otherwise d_sae = {setting['d_sae']}, k = {setting['k']}, "
        f"{setting['batch']} rows a step, {setting['turn_steps']} steps a turn, "
        f"{SETTLING_TURNS} + {setting['pairs']} turns. All parts took {minutes:.0f} minutes."
    )


NOTES = {"auxk": AUXK, "jumprelu_sparse": JUMPRELU, "jumprelu": WHOLE}
HEAD = ("system", "dtype", "tokens/s", "ours is faster by", "peak MiB", "of its limit")


def _race(name: str, results: Sequence[Result], d_in: int) -> list[str]:
    best = bars.our_best(results)
    limit = next(result for result in results if result.contestant.system == LIMIT)
    lines = [
        [*_line(result, best, limit, d_in, whole=name == "jumprelu"), *_figures(result)]
        for result in results
        if result is not limit
    ]
    text = table([*HEAD, "FVU", "L0"], lines)
    return [f"## {bars.TITLES[name]}", *([NOTES[name]] if name in NOTES else []), text]


def _line(result: Result, best: Result, limit: Result, d_in: int, *, whole: bool) -> list[str]:
    who = result.contestant
    speed = whole_run(result) if whole else tokens_per_second(result)
    times = str(ratio(best, result)) if result is not best else "1"
    if whole and result is not best:
        times = f"{whole_run(best) / whole_run(result):.2f}" + times[times.index(" ") :]
    return [
        NAMES[who.system],
        who.dtype,
        f"{speed:,.0f}",
        times,
        f"{result.peak_bytes / 2**20:,.0f}",
        f"{fraction_of_limit(result, limit, d_in, who.dtype):.0%}",
    ]


def _figures(result: Result) -> list[str]:
    return [f"{result.figures['fvu']:.4f}", f"{result.figures['l0']:.1f}"]


def _scaling(races: bars.Races, d_in: int) -> list[str]:
    found: list[str] = []
    for kind, title in (("width", "d_sae"), ("batch", "rows a step")):
        lines: list[list[str]] = []
        for name, results in races.items():
            if name.startswith(f"{kind}_"):
                limit = next(r for r in results if r.contestant.system == LIMIT)
                best = bars.our_best(results)
                own = name.partition("_")[2]
                lines += [
                    [own, *_line(result, best, limit, d_in, whole=False)]
                    for result in results
                    if result is not limit
                ]
        if lines:
            found += [f"## TopK by {title}", table([title, *HEAD], lines)]
    return found


def _sweep(results: Sequence[Result]) -> str:
    lines = [
        [r.contestant.members, f"{tokens_per_second(r):,.0f}", f"{r.peak_bytes / 2**20:,.0f}"]
        for r in results
    ]
    return table(["members", "tokens/s", "peak MiB"], lines)


def _environment(races: bars.Races) -> list[str]:
    """How much faster peers are in the environment of our job processes than as they come."""
    lines: list[list[str]] = []
    for name, results in races.items():
        if name.startswith("environment_"):
            usual, as_job = results
            lines.append([NAMES[usual.contestant.system], str(ratio(as_job, usual))])
    if not lines:
        return []
    head = ["TopK of", "times as fast"]
    return ["## Peers in the environment of our jobs", table(head, lines)]


def _limits(races: bars.Races) -> list[str]:
    lines: list[list[str]] = []
    for name, results in races.items():
        for result in results:
            if result.contestant.system == LIMIT:
                lines.append([name, *_limit(result)])
    head = ["race", "fp32 GEMM ms", "bf16 GEMM ms", "GB/s, median (least to most)"]
    return ["## The machine, in the same rounds", table(head, lines)]


def _limit(result: Result) -> list[str]:
    turns = result.turns[SETTLING_TURNS:]
    rates = [turn["bytes_per_second"] / 1e9 for turn in turns]
    times = [
        f"{1e3 * statistics.median(turn[f'gemm_{dtype}'] for turn in turns):.0f}"
        for dtype in DTYPES
    ]
    return [*times, f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"]


if __name__ == "__main__":
    main()
