"""Whether a spec of little more than a preset or an architecture gives a good SAE: `make presets`.

Every preset and architecture, at 200 k and 1 M tokens (some at 10 M), on the rows that `make demo`
harvested and on planted rows. Architectures are trained at multiples of their own rate as well.
Records are keyed by the resolved spec: run again, it does only what is missing or has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product, starmap
from pathlib import Path
from typing import Any

from bench import ours, smollm2
from bench.planted.setting import Planted
from bench.planted.truth import BLOCK_ROWS
from bench.results import FOLDER, environment

from saeserve.core.data.preprocess import Preprocessing, fit_preprocessing
from saeserve.core.data.source import ActivationSource
from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.fold import fold
from saeserve.core.formats.model import Lineage
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.closing import closing_warnings
from saeserve.core.specs.presets import PRESETS
from saeserve.core.specs.training import PreprocessSpec, TrainSpec
from saeserve.core.training.calibrating import judged_half
from saeserve.core.training.trainer import Trainer
from saeserve.errors import DivergedError

DEMO, PLANTED, PRESET = "demo", "planted", "preset:"
ASKED = {DEMO: 32, PLANTED: 9}
"""k or target_l0."""
BOTH = (PLANTED, DEMO)
FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Factors of the resolved rate, which is the fifth."""
LONG = ("topk", "jumprelu", "relu")
PLANTED_ROWS = 489 * BLOCK_ROWS
HELDOUT_BLOCKS = 16
TRUTH = 50
"""A truth on which nothing was chosen."""
LARGEST_RATIO, LARGEST_MISS, LARGEST_FVU = 1.15, 0.05, 0.5

RECORDED = ("fvu", "l0", "warnings", "key", "seconds", "rows", "spec")


@dataclass(frozen=True)
class Cell:
    """One run that is asked for; `factor` multiplies the resolved rate."""

    data: str
    name: str
    d_sae: int
    tokens: int
    factor: float = 1.0

    @property
    def is_preset(self) -> bool:
        """Whether rate and loss are its authors'."""
        return self.name.startswith(PRESET)

    def fields(self) -> dict[str, Any]:
        """Fields of the train spec, without rate."""
        asked = ASKED[self.data]
        named: dict[str, Any] = {self.name: {}, "target_l0": asked}
        if self.is_preset:
            named = _preset(self.name.removeprefix(PRESET), asked)
        return {**named, "d_sae": self.d_sae, "tokens": self.tokens}


def _preset(name: str, asked: int) -> dict[str, Any]:
    """The preset's fields with this sparsity, an annealed k in proportion."""
    for architecture, options in PRESETS[name].fields.items():
        if architecture in ARCHITECTURE_SPECS and "k" in options:
            k: dict[str, Any] = {"k": asked}
            if "k_initial" in options:
                k["k_initial"] = asked * options["k_initial"] / options["k"]
            return {"preset": name, architecture: k}
    return {"preset": name, "target_l0": asked}


NAMES = (*ARCHITECTURE_SPECS, *(f"{PRESET}{name}" for name in PRESETS))
SHORT = (200_000, 1_000_000)


def cells() -> Iterator[Cell]:
    """Every run, those first that say most."""
    yield from starmap(Cell, product(BOTH, NAMES, (1024,), SHORT))
    yield from starmap(Cell, product(BOTH, ARCHITECTURE_SPECS, (1024,), SHORT[:1], FACTORS))
    yield from starmap(Cell, product((DEMO,), NAMES, (4608,), SHORT))
    yield from starmap(Cell, product(BOTH, ARCHITECTURE_SPECS, (1024,), SHORT[1:], FACTORS))
    yield from starmap(Cell, product(BOTH, LONG, (1024,), (10_000_000,)))
    yield from starmap(Cell, product((DEMO,), LONG, (4608,), (1_000_000,), FACTORS))


class Ground:
    """The rows of one kind: for training, and held out."""

    def __init__(self, data: str, dataset: Path) -> None:
        """Draws the planted rows into a file at first."""
        self._preprocessing: dict[str, Preprocessing] = {}
        if data == DEMO:
            self.source: ActivationSource = smollm2.training_rows(dataset, "resid_post.15", 0)
            self.heldout = list(smollm2.heldout_rows(dataset, "resid_post.15"))
            return
        planted = Planted(seed=TRUTH, samples=PLANTED_ROWS)
        planted.draw()
        truth = planted.truth()
        self.source = planted.source(truth)
        self.heldout = [truth.block(n, "heldout").x_BD for n in range(HELDOUT_BLOCKS)]

    def preprocessing(self, spec: PreprocessSpec) -> Preprocessing:
        """Fitted once for equal specs."""
        key = spec.model_dump_json()
        if key not in self._preprocessing:
            self._preprocessing[key] = fit_preprocessing(self.source, spec)
        return self._preprocessing[key]


def spec_of(cell: Cell, d_in: int) -> TrainSpec:
    """The resolved spec, its rate multiplied."""
    spec = ours.resolved(cell.fields(), d_in)
    rate = (spec.optimizer.lr or 0.0) * cell.factor
    return spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update={"lr": rate})})


def key_of(cell: Cell, spec: TrainSpec) -> str:
    """Key of a record, from the rows and the resolved spec: a changed default is another record."""
    return hashlib.sha256(f"{cell.data} {spec.model_dump_json()}".encode()).hexdigest()[:16]


def run(spec: TrainSpec, ground: Ground) -> dict[str, Any]:
    """FVU, L0 and closing warnings of the model as a job would publish it."""
    preprocessing = ground.preprocessing(spec.preprocess)
    trainer = Trainer.start(ours.setup(spec, ground.source, preprocessing))
    try:
        for _event in trainer.run(ours.NoCheckpoints(), lambda: False):
            pass
    except DivergedError as error:
        return {"fvu": None, "l0": None, "warnings": [error.code]}
    shifted = trainer.calibrated(preprocessing.apply(rows) for rows in ground.heldout)
    form = shifted or trainer.form()
    heldout = ground.heldout if shifted is None else [*map(judged_half, ground.heldout)]
    name = spec.architecture.name
    model = fold(form, preprocessing, architecture=name, source=ours.SOURCE, lineage=Lineage())
    report = evaluate_reconstruction(model, heldout)
    found = closing_warnings(spec, report.fvu, report.l0, "held-out")
    found += trainer.judged(form, map(preprocessing.apply, heldout)).warnings()
    return {"fvu": report.fvu, "l0": report.l0, "warnings": [each.code for each in found]}


def summary(records: Mapping[Cell, dict[str, Any]]) -> list[str]:
    """Which bars do not hold, one a line; what was not run is counted."""
    told = [f"{len(records)} of {len(list(cells()))} runs are there"]
    for cell, record in records.items():
        told += [f"{_name(cell)}: {what}" for what in _missed(cell, record, records)]
    return told


def _missed(
    cell: Cell, record: dict[str, Any], records: Mapping[Cell, dict[str, Any]]
) -> Iterator[str]:
    fvu, l0, warnings = record["fvu"], record["l0"], record["warnings"]
    if fvu is None:
        yield from [] if cell.factor != 1 else ["diverged"]
        return
    miss = abs(l0 / ASKED[cell.data] - 1)
    if (fvu > LARGEST_FVU or miss > LARGEST_MISS) and not warnings:
        yield f"fvu {fvu:.3f}, l0 {l0:.2f} without a warning"
    if cell.is_preset or cell.factor != 1:
        return
    if cell.tokens >= 1_000_000 and (warnings or miss > LARGEST_MISS):
        yield f"fvu {fvu:.3f}, l0 {l0:.2f}: {', '.join(warnings) or 'l0 missed'}"
    others = [records.get(replace(cell, factor=factor)) for factor in FACTORS]
    rivals = [each["fvu"] for each in others if each is not None and each["fvu"] is not None]
    if rivals and fvu > LARGEST_RATIO * min(rivals):
        yield f"fvu {fvu:.3f}, and {min(rivals):.3f} at another rate"


def _name(cell: Cell) -> str:
    rate = "" if cell.factor == 1 else f" rate x {cell.factor:g}"
    return f"{cell.data} {cell.name} d_sae {cell.d_sae} tokens {cell.tokens:,}{rate}"


def save(path: Path, records: Mapping[Cell, dict[str, Any]]) -> None:
    """Every record with its cell, and the bars."""
    runs = [asdict(cell) | record for cell, record in records.items()]
    value = {"benchmark": "presets", "environment": environment(), "runs": runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(value | {"summary": summary(records)}, indent=1) + "\n")
    unfinished.rename(path)


def main() -> None:
    """Run what is missing, print a line for each run and the bars at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    smollm2.add_options(parser)
    parser.add_argument("--out", type=Path, default=FOLDER / "presets.json")
    parser.add_argument("--only", choices=(DEMO, PLANTED), help="rows of one kind")
    asked = parser.parse_args()
    smollm2.check(asked.dataset)
    known: dict[str, dict[str, Any]] = {}
    if asked.out.exists():
        known = {each["key"]: each for each in json.loads(asked.out.read_text())["runs"]}
    grounds = {data: Ground(data, asked.dataset) for data in BOTH}
    records: dict[Cell, dict[str, Any]] = {}
    for done in (True, False):
        for cell in cells():
            ground = grounds[cell.data]
            spec = spec_of(cell, ground.source.d)
            key = key_of(cell, spec)
            if done and key in known:
                records[cell] = {name: known[key][name] for name in RECORDED}
            if done or cell in records or asked.only not in (None, cell.data):
                continue
            began = time.perf_counter()
            found = run(spec, ground) | {"key": key, "seconds": time.perf_counter() - began}
            records[cell] = found | {"rows": ground.source.rows, "spec": spec.to_json()}
            save(asked.out, records)
            print(_name(cell), found, flush=True)
    save(asked.out, records)
    print("\n".join(summary(records)))


if __name__ == "__main__":
    main()
