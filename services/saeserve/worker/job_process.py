"""The job process: runs one attempt and ends with an `ExitCode`. Torch lives only here.

It commits checkpoints and the result itself; whoever started it only reads the store.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import signal
import sys
import threading
import time
from typing import NoReturn

from saeserve.core.moving import listening
from saeserve.errors import CheckpointError, SaeserveError, ServiceError
from saeserve.jobs.errors import Fenced
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Result
from saeserve.jobs.states import JobState
from saeserve.platform.logging import configure, of_job
from saeserve.platform.signals import SignalActor
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import StoreProof
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.publication import Publication
from saeserve.registry.roots import Roots
from saeserve.worker.failures import covered, explains_itself, failure_of
from saeserve.worker.fence_watch import FenceWatch
from saeserve.worker.job_log import keep_last_words, kept_log, log_path
from saeserve.worker.order import ExitCode, JobOrder
from saeserve.worker.orphan import end_with_parent
from saeserve.worker.report import Report
from saeserve.worker.runners.base import Completed, DeviceMissing, JobStopped, RunContext, runner_of

_log = logging.getLogger("saeserve.worker.job")


def main() -> None:
    """Run the order given as the only argument, and exit."""
    perform(JobOrder.model_validate_json(sys.argv[1]))


def perform(order: JobOrder) -> NoReturn:
    """Make this process the job process of `order`, and exit."""
    stop = threading.Event()
    SignalActor(stop.set).handle([signal.SIGTERM])
    faulthandler.enable()
    keep_last_words(log_path(order))
    configure(order.log_level, order.log_format)
    with of_job(order.claim.job, order.claim.epoch):
        code = _bound(order, stop)
    # The interpreter resets handlers when it ends: one more signal would be the exit status.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


def _bound(order: JobOrder, stop: threading.Event) -> ExitCode:
    try:
        end_with_parent(order.parent, stop.set, order.stop_grace_s)
    except ProcessLookupError:
        return ExitCode.STOPPED
    return run(order, stop)


def run(order: JobOrder, stop: threading.Event) -> ExitCode:
    """Run the attempt until it has ended; leave its result or its error in the store."""
    try:
        context = make_context(order, stop)
    except Exception as error:
        return _left(Ledger(ArtifactStore(order.store)), order, error, order.claim.resume_step)
    watch = FenceWatch(context.ledger, order.lease, stop.set)
    signs = listening(context.report.moved)
    with context.report, kept_log(log_path(order)), watch, signs:
        claim, kind = order.claim, context.submission.kind
        _log.info("%s job %s: attempt %d starts", kind, claim.job, claim.epoch)
        code = _ended(context)
        _log.info("job %s: attempt %d ends: %s", claim.job, claim.epoch, code.name)
        return code


def _ended(context: RunContext) -> ExitCode:
    try:
        return _run(context)
    except JobStopped:
        return _stopped(context)
    except Fenced as error:
        return _fenced(context, error.message)
    except DeviceMissing as error:
        _log.error("torch sees no device for class %s", error)
        return ExitCode.UNFIT
    except Exception as error:
        return _failed(context, error)


def make_context(order: JobOrder, stop: threading.Event) -> RunContext:
    """Open the store's rooms for an attempt."""
    store = ArtifactStore(order.store)
    store.guard(StoreProof(order.store, order.store_id))
    ledger = Ledger(store)
    roots = Roots(order.roots)
    datasets = DatasetRegistry(store, roots)
    return RunContext(
        submission=ledger.submission(order.claim.job),
        order=order,
        store=store,
        ledger=ledger,
        datasets=datasets,
        models=ModelRegistry(store),
        publication=Publication(store, datasets),
        roots=roots,
        report=Report.open(store, ledger, order.claim),
        asked_to_stop=stop.is_set,
    )


def _run(context: RunContext) -> ExitCode:
    claim = context.order.claim
    runner = runner_of(context.submission.kind)
    context.report.attempt_started(claim.resume_step)
    for key in claim.corrupt:
        context.report.warning(
            claim.resume_step, CheckpointError.code, f"{key} is damaged; passed over"
        )
    completed = runner(context)
    context.check_fence()
    winner = context.ledger.finish(_result(context, completed))
    if winner.epoch != claim.epoch or winner.state is not JobState.SUCCEEDED:
        raise Fenced(claim.job, claim.epoch, f"the job's result ({winner.state})")
    _publish(context)
    return ExitCode.FINISHED


def _publish(context: RunContext) -> None:
    """The result stands; should this fail, the worker or the reconciler does it."""
    try:
        context.publication.apply(context.submission.id)
    except (OSError, SaeserveError) as error:
        _log.warning("%s: its outputs are not published yet: %s", context.submission.id, error)


def _result(context: RunContext, completed: Completed) -> Result:
    claim = context.order.claim
    return Result(
        job=claim.job,
        epoch=claim.epoch,
        state=JobState.SUCCEEDED,
        outputs=completed.outputs,
        steps=completed.steps,
        time=time.time(),
    )


def _stopped(context: RunContext) -> ExitCode:
    lease = context.order.lease
    if context.ledger.superseded(lease.job, lease.epoch):
        return _fenced(context, f"{lease.job}: attempt {lease.epoch} is superseded")
    return ExitCode.STOPPED


def _fenced(context: RunContext, why: str) -> ExitCode:
    """Leave nothing but what belongs to this attempt; its data set's folder goes."""
    _log.warning("%s", why)
    spec = context.submission.resolved_spec.get(context.submission.kind, {})
    if context.submission.kind in ("harvest", "ingest"):
        lease = context.order.lease
        context.datasets.making.abandon(spec["dataset"], lease.job, lease.epoch)
    return ExitCode.FENCED


def _failed(context: RunContext, error: Exception) -> ExitCode:
    lease = context.order.lease
    if context.ledger.superseded(lease.job, lease.epoch):
        # Its successor may have removed or finished what this attempt was working on.
        return _fenced(context, f"{lease.job}: superseded attempt {lease.epoch}: {error}")
    return _left(context.ledger, context.order, error, context.report.step)


def _left(ledger: Ledger, order: JobOrder, error: Exception, step: int) -> ExitCode:
    """Leave why the attempt failed, in the store or, where that is full, in the exit code."""
    failure = covered(failure_of(error, step, device_shared=_device_shared()), order.cover)
    trace = None if explains_itself(failure) else error
    _log.error("%s: %s", order.claim.job, failure.message, exc_info=trace)
    try:
        ledger.write_failure(order.lease, failure)
    except ServiceError as full:
        if full.code != "DISK_FULL":
            raise
        return ExitCode.DISK_FULL
    return ExitCode.FAILED


def _device_shared() -> bool:
    """What `devices` says; True in a job that computed on no device, and where the memory that ran
    out is missing for the question as well."""
    if "torch" not in sys.modules:
        return True
    try:
        return importlib.import_module("saeserve.worker.runners.devices").device_shared()
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        _log.warning("it is not known who else uses the device: %s", error)
        return True


if __name__ == "__main__":
    main()
