"""Which attempt's curves are those of the job."""

from __future__ import annotations

from saeserve.jobs import attempts
from saeserve.jobs.layout import curves_key
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.states import JobState


def curves_epoch(ledger: Ledger, job: str) -> int:
    """The attempt that the job's result names, if it succeeded; otherwise the last one that left
    curves, which have what the attempts before it reported as well. 0 where there are none."""
    result = ledger.result(job)
    if result is not None and result.state is JobState.SUCCEEDED:
        return result.epoch
    epochs = attempts.epochs(ledger.store, job)
    return max((e for e in epochs if ledger.store.exists(curves_key(job, e))), default=0)
