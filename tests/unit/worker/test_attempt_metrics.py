"""Which job runs, and what of its figures stays when it has ended."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench

from saeserve.jobs.events import EventLog
from saeserve.jobs.record import Claim, Failure
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.report import Report, Scale
from saeserve.worker.settlement import Ending

SWEEP = {
    "train": {
        "dataset": "planted",
        "model": "sae",
        "d_sae": 64,
        "tokens": 4096,
        "batch_size": 64,
        "topk": {},
        "sweep": {"k": [4, 8]},
    }
}


def claim(epoch: int = 2) -> Claim:
    return Claim(job="j-1", epoch=epoch, owner="w", time=0.0)


def names(registry: CollectorRegistry) -> set[str]:
    return {sample.name for family in registry.collect() for sample in family.samples}


def test_the_running_attempt_is_named_and_ends() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    job = submission(kind="train").model_copy(update={"resolved_spec": SWEEP})
    value = registry.get_sample_value
    with metrics.attempt(job, claim()):
        labels = {"job_id": job.id, "kind": "train", "attempt": "2"}
        assert value("saeserve_attempt_info", labels) == 1
        assert value("saeserve_attempt_model_info", {"member": "1", "model": "sae-k8"}) == 1
        assert value("saeserve_train_l0_target", {"member": "1"}) == 8
    told = names(registry)
    for name in ("attempt_info", "attempt_model_info", "train_l0_target"):
        assert f"saeserve_{name}" not in told


def test_a_spec_that_is_not_read_costs_the_names_of_its_models_alone() -> None:
    registry = CollectorRegistry()
    job = submission(kind="train").model_copy(update={"resolved_spec": {"train": {"no": 1}}})
    with WorkerMetrics(registry).attempt(job, claim()):
        assert "saeserve_attempt_info" in names(registry)
        assert "saeserve_attempt_model_info" not in names(registry)


def test_figures_of_training_end_with_the_attempt(bench: Bench, tmp_path: Path) -> None:
    job, path = submission(kind="train"), tmp_path / "events.jsonl"
    relay = EventRelay(path, job, 0, bench.index, bench.metrics)
    with bench.metrics.attempt(job, claim()):
        with Report(EventLog(path, 1)) as report:
            values = {"loss": 2.0, "loss_aux": 0.5, "fvu": 0.25, "l0": 8.0, "tokens": 64.0}
            report.metrics(1, values, Scale("steps", 10))
            report.checkpoint(1, 1000)
        relay.forward()
        value = bench.registry.get_sample_value
        assert value("saeserve_train_fvu", {"member": "0"}) == 0.25
        written = value("saeserve_checkpoint_timestamp_seconds", {"kind": "train"})
        assert written is not None
        assert written > 1.7e9
    gone = {"train_fvu", "train_l0", "train_loss", "checkpoint_timestamp_seconds"}
    gone.add("last_progress_timestamp_seconds")
    assert {f"saeserve_{name}" for name in gone} & names(bench.registry) == set()
    assert bench.registry.get_sample_value("saeserve_checkpoints_total") == 1


def test_lost_checkpoints_and_failed_attempts_are_counted(bench: Bench, tmp_path: Path) -> None:
    value = bench.registry.get_sample_value
    assert value("saeserve_checkpoint_failures_total", {"code": "CKPT_CORRUPT"}) == 0
    path = tmp_path / "events.jsonl"
    relay = EventRelay(path, submission(kind="train"), 0, bench.index, bench.metrics)
    with Report(EventLog(path, 1)) as report:
        report.warning(0, "CKPT_CORRUPT", "step-10 is damaged; passed over")
    relay.forward()
    bench.metrics.failed(Failure(code="DISK_FULL", message="m"))
    bench.metrics.failed(Failure(code="OOM_HOST", message="m"))
    assert value("saeserve_checkpoint_failures_total", {"code": "CKPT_CORRUPT"}) == 1
    assert value("saeserve_checkpoint_failures_total", {"code": "DISK_FULL"}) == 1
    assert value("saeserve_attempt_failures_total", {"code": "OOM_HOST"}) == 1


def test_every_ending_stands_at_0() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    for ending in Ending:
        assert registry.get_sample_value("saeserve_attempts_total", {"outcome": ending}) == 0
