"""What a splice is compared with: ablations, principal components and a random dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from saeserve.core.evaluation.arms import ArmTable, Replace
from saeserve.core.evaluation.baselines import FIT_ROWS, Principal, RandomDictionary
from saeserve.core.evaluation.loss_recovered import Baselines, ablations
from saeserve.core.specs.jobs import LossRecoveredSpec
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.evaluate_memory import Facts, Memory
from saeserve.worker.runners.evaluate_rows import RowFigures
from saeserve.worker.runners.evaluate_subject import Subject

_FIT_VALUES = 2**26
"""Most numbers in the training rows that baselines are fitted to."""
_FITTED = ("pca", "random")


@dataclass(frozen=True)
class Compared:
    """The baselines of one model, and by what those that know no model are kept."""

    baselines: Baselines
    k: int
    facts: Mapping[str, Facts]

    def keep(self, memory: Memory, tables: Mapping[str, ArmTable]) -> None:
        """Let later evaluations have the arms that know no model."""
        for arm, facts in self.facts.items():
            memory.keep_arm(facts, {name: tables[name] for name in _names(arm)})


def compared(
    context: RunContext,
    memory: Memory,
    subject: Subject,
    rows: RowFigures,
    wanted: LossRecoveredSpec,
    dtype: str,
) -> Compared:
    """Fit what was asked for; arms of earlier evaluations are taken over."""
    k = max(1, round(rows.headline.l0))
    facts = {arm: _facts(subject, wanted, arm, k, dtype) for arm in wanted.arms if arm != "random"}
    kept = {arm: memory.arm(facts[arm]) for arm in facts}
    missing = [arm for arm in wanted.arms if not kept.get(arm)]
    known = {name: table for tables in kept.values() for name, table in tables.items()}
    if known:
        context.report.log(
            f"arms of an earlier evaluation: {', '.join(a for a in kept if kept[a])}"
        )
    replaces = {
        arm: replace
        for arm, replace in _replaces(context, subject, rows, k, missing).items()
        if arm in missing
    }
    return Compared(
        Baselines(replaces, known), k, {arm: facts[arm] for arm in facts if arm in replaces}
    )


def _replaces(
    context: RunContext, subject: Subject, rows: RowFigures, k: int, missing: list[str]
) -> dict[str, Replace]:
    replaces = ablations(subject.model, rows.mean_O.float())
    if not any(arm in missing for arm in _FITTED):
        return replaces
    x_NO = _training_rows(context, subject)
    if len(x_NO) < 2:
        context.report.log("too few training rows to fit components and a random dictionary to")
        return replaces
    model, seed = subject.model, subject.spec.seed
    if "pca" in missing:
        replaces["pca"] = Principal.fit(x_NO, k, seed).to(model.device).reconstruct
    if "random" in missing:
        x_NO = x_NO.to(model.device)
        replaces["random"] = RandomDictionary.fit(x_NO, model.W_dec, k, seed).reconstruct
    return replaces


def _training_rows(context: RunContext, subject: Subject) -> Tensor:
    """Rows of what is written, without those of massive norm."""
    context.check_stop()
    d_out = sum(source.d for source in subject.written)
    names = [source.name for source in subject.written]
    most = max(2, min(FIT_ROWS, _FIT_VALUES // d_out))
    return subject.dataset.training_sample(names, norm_cut=subject.norm_cut, max_rows=most)


def _facts(subject: Subject, wanted: LossRecoveredSpec, arm: str, k: int, dtype: str) -> Facts:
    return {
        "arm": arm,
        "k": k if arm == "pca" else 0,
        "seed": subject.spec.seed if arm == "pca" else 0,
        "read": subject.names,
        "written": [source.name for source in subject.written],
        "norm_cut": subject.norm_cut,
        "max_rows": subject.spec.max_rows if arm == "mean" else 0,
        "max_tokens": wanted.max_tokens,
        "dtype": dtype,
    }


def _names(arm: str) -> tuple[str, str]:
    return f"ce.{arm}", f"kl.{arm}"
