"""The panels of the Grafana dashboards: titles, queries, legends and units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TRAINED = 'instance=~"$worker"'


@dataclass(frozen=True)
class Panel:
    """A panel: its title, its queries with their legends, and its unit in Grafana's words."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""
    log: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard, and the query of its variable `worker` where it has one."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    workers: str = ""


def one(title: str, query: str, legend: str = "", unit: str = "short", **more: Any) -> Panel:  # noqa: ANN401 - the other fields of Panel
    """A panel of one query."""
    return Panel(title, ((query, legend),), unit, **more)


def stat(title: str, query: str, unit: str = "short", text: str = "") -> Panel:
    """A panel that shows one number."""
    return Panel(title, ((query, ""),), unit, "stat", 4, text)


def quantile(metric: str, share: float, by: str = "le", where: str = "") -> str:
    """A quantile of a histogram over five minutes."""
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{where}[5m])))"


FLEET = Dashboard(
    "saeserve-fleet",
    "saeserve: fleet and queue",
    (
        stat("Running jobs", 'sum(saeserve_jobs{state="RUNNING"})'),
        stat("Queued jobs", 'sum(saeserve_jobs{state="QUEUED"})'),
        stat("Live workers", "sum(max by (class) (saeserve_workers))"),
        stat("Oldest queued job", "max(saeserve_oldest_queued_job_age_seconds)", "s"),
        stat(
            "Failed in the last day",
            'sum(increase(saeserve_jobs_finished_total{state="FAILED"}[1d]))',
        ),
        stat("Reconciler's last round", "min(saeserve_reconciler_last_round_age_seconds)", "s"),
        one(
            "Jobs by state and class",
            'sum by (state, class) (saeserve_jobs{state!~"SUCCEEDED|FAILED|CANCELLED"})',
            "{{state}} {{class}}",
        ),
        one(
            "Oldest queued job",
            "max by (class) (saeserve_oldest_queued_job_age_seconds)",
            "{{class}}",
            "s",
        ),
        one("Live workers", "max by (class) (saeserve_workers)", "{{class}}"),
        one(
            "Jobs ended",
            "sum by (state) (increase(saeserve_jobs_finished_total[1h]))",
            "{{state}}",
            text="In the hour before.",
        ),
        one(
            "Failures by code",
            "sum by (code) (increase(saeserve_job_failures_total[1h]) > 0) or vector(0)",
            "{{code}}",
            text="In the hour before; ERRORS.md explains the codes.",
        ),
        one(
            "Attempts by outcome",
            "sum by (outcome) (increase(saeserve_attempts_total[1h]))",
            "{{outcome}}",
        ),
        Panel(
            "Wait in the queue",
            (
                (quantile("saeserve_job_queue_wait_seconds", 0.5), "half"),
                (quantile("saeserve_job_queue_wait_seconds", 0.95), "95 %"),
            ),
            "s",
        ),
        one(
            "Duration of jobs, 95 %",
            quantile("saeserve_job_duration_seconds", 0.95, "le, kind"),
            "{{kind}}",
            "s",
        ),
        Panel(
            "Recoveries",
            (
                ("increase(saeserve_leases_expired_total[1h])", "leases expired"),
                ("sum(increase(saeserve_fenced_total[1h]))", "attempts fenced"),
                ("increase(saeserve_doorbells_republished_total[1h])", "doorbells republished"),
                ("increase(saeserve_index_rebuilds_total[1h])", "index rebuilds"),
            ),
            text="In the hour before.",
        ),
        one(
            "Running attempts",
            "saeserve_attempt_info",
            "{{instance}} {{kind}} {{job_id}}",
            kind="table",
            width=12,
        ),
        one(
            "Nothing has moved for", "saeserve_worker_still_seconds", "{{instance}}", "s", width=12
        ),
        one("GPU load", "saeserve_gpu_utilisation_ratio", "{{instance}} {{device}}", "percentunit"),
        one(
            "GPU memory in use",
            "saeserve_gpu_memory_used_bytes / saeserve_gpu_memory_size_bytes",
            "{{instance}} {{device}}",
            "percentunit",
        ),
        one(
            "GPU temperature",
            "saeserve_gpu_temperature_celsius",
            "{{instance}} {{device}}",
            "celsius",
        ),
    ),
)

TRAINING = Dashboard(
    "saeserve-training",
    "saeserve: one training run",
    (
        one(
            "Job",
            f"saeserve_attempt_info{{{TRAINED}}}",
            "{{kind}} {{job_id}}",
            kind="table",
            width=12,
        ),
        one(
            "Models",
            f"saeserve_attempt_model_info{{{TRAINED}}}",
            "{{member}} {{model}}",
            kind="table",
            width=12,
        ),
        one("Loss terms", f"saeserve_train_loss{{{TRAINED}}}", "{{member}} {{term}}", log=True),
        one(
            "FVU",
            f"saeserve_train_fvu{{{TRAINED}}}",
            "{{member}}",
            "percentunit",
            text="Fraction of variance unexplained on the latest batch; lower is better.",
        ),
        Panel(
            "L0 against its target",
            (
                (f"saeserve_train_l0{{{TRAINED}}}", "{{member}}"),
                (f"saeserve_train_l0_target{{{TRAINED}}}", "{{member}} target"),
            ),
        ),
        one(
            "Dead latents",
            f"saeserve_train_dead_latents{{{TRAINED}}}",
            "{{member}}",
            text="Those that have not fired for dead_window_tokens rows.",
        ),
        one("Learning rate", f"saeserve_train_learning_rate{{{TRAINED}}}", "{{member}}"),
        one("Rows a second", f"saeserve_train_tokens_per_second{{{TRAINED}}}", "{{member}}"),
        one(
            "Time that waits for data",
            f"saeserve_train_data_waiting_ratio{{{TRAINED}}}",
            "{{member}}",
            "percentunit",
            text="Near 100 %: the disk, not the device, sets the pace.",
        ),
        one(
            "Age of the last checkpoint",
            f"time() - saeserve_checkpoint_timestamp_seconds{{{TRAINED}}}",
            "{{kind}}",
            "s",
        ),
        one(
            "Last progress",
            f"time() - saeserve_last_progress_timestamp_seconds{{{TRAINED}}}",
            "{{kind}}",
            "s",
        ),
        one(
            "Warnings",
            f"sum by (code) (increase(saeserve_job_warnings_total{{{TRAINED}}}[1h]) > 0)"
            " or vector(0)",
            "{{code}}",
        ),
        Panel(
            "Rows trained and harvested",
            (
                (f"rate(saeserve_train_tokens_total{{{TRAINED}}}[5m])", "trained"),
                (f"rate(saeserve_harvest_tokens_total{{{TRAINED}}}[5m])", "harvested"),
            ),
            text="A second, over five minutes.",
        ),
        one(
            "Members that diverged",
            f"increase(saeserve_train_diverged_members_total{{{TRAINED}}}[1h])",
            "{{instance}}",
        ),
    ),
    workers="saeserve_worker_info",
)

INFERENCE = Dashboard(
    "saeserve-inference",
    "saeserve: inference",
    (
        Panel(
            "Rows a second",
            (
                ("sum(rate(saeserve_encode_rows_total[5m]))", "encode"),
                ("sum(rate(saeserve_decode_rows_total[5m]))", "decode"),
                ("sum(rate(saeserve_reconstruct_rows_total[5m]))", "reconstruct"),
            ),
        ),
        one(
            "Calls a second by code",
            "sum by (code) (rate("
            'saeserve_grpc_requests_total{service="saeserve.v1.InferenceService"}[5m]))',
            "{{code}}",
            "reqps",
        ),
        Panel(
            "Latency of Encode",
            tuple(
                (
                    quantile("saeserve_grpc_request_seconds", share, where='{method="Encode"}'),
                    f"{share:.0%}",
                )
                for share in (0.5, 0.95, 0.99)
            ),
            "s",
        ),
        one(
            "Latency by model, 95 %",
            quantile("saeserve_model_request_seconds", 0.95, "le, model, operation"),
            "{{model}} {{operation}}",
            "s",
        ),
        one(
            "Errors by model",
            "sum by (model, operation, reason) (increase(saeserve_model_errors_total[15m]) > 0)"
            " or vector(0)",
            "{{model}} {{operation}} {{reason}}",
            text="In the quarter of an hour before.",
        ),
        one(
            "Refused a second", "sum by (reason) (rate(saeserve_rejected_total[5m]))", "{{reason}}"
        ),
        one("Rows that wait", "sum by (instance) (saeserve_queue_rows)", "{{instance}}"),
        one("Wait for the device, 95 %", quantile("saeserve_queue_wait_seconds", 0.95), "", "s"),
        Panel(
            "Rows of a batch",
            (
                (quantile("saeserve_batch_rows", 0.5), "half"),
                (quantile("saeserve_batch_rows", 0.95), "95 %"),
            ),
        ),
        one(
            "Time by stage",
            "sum by (stage) (rate(saeserve_stage_seconds_sum[5m]))",
            "{{stage}}",
            "s",
            text="Seconds spent in each second.",
        ),
        one(
            "Model loads",
            "sum by (result) (increase(saeserve_model_loads_total[15m]))",
            "{{result}}",
        ),
        Panel(
            "Models in memory",
            (("sum by (instance) (saeserve_models_resident_bytes)", "{{instance}}"),),
            "bytes",
        ),
    ),
)

STORE = Dashboard(
    "saeserve-store",
    "saeserve: Valkey, store and services",
    (
        stat("Valkey answers", "max(saeserve_redis_up)"),
        stat("It writes its log", "min(saeserve_redis_persistence_ok)"),
        stat("Store is there", "min(saeserve_store_up)"),
        stat("Store free", "min(saeserve_store_free_bytes)", "bytes"),
        stat(
            "Certificate expires in",
            "min(saeserve_tls_certificate_expiry_timestamp_seconds) - time()",
            "s",
        ),
        stat("Control leads", "sum(saeserve_reconciler_leading)"),
        Panel(
            "Memory of Valkey",
            (
                ("max(saeserve_redis_memory_used_bytes)", "used"),
                ("max(saeserve_redis_memory_limit_bytes) > 0", "limit"),
            ),
            "bytes",
        ),
        Panel(
            "Disk of the store",
            (
                ("min(saeserve_store_free_bytes)", "free"),
                ("min(saeserve_store_size_bytes)", "size"),
            ),
            "bytes",
        ),
        one(
            "Store errors",
            "sum by (reason) (increase(saeserve_store_errors_total[15m]))",
            "{{reason}}",
        ),
        one(
            "Reconciler's last round",
            "saeserve_reconciler_last_round_age_seconds",
            "{{instance}}",
            "s",
        ),
        Panel(
            "Checkpoints",
            (
                ("sum(increase(saeserve_checkpoints_total[1h]))", "committed"),
                ("sum by (code) (increase(saeserve_checkpoint_failures_total[1h]))", "{{code}}"),
            ),
            text="In the hour before.",
        ),
        one(
            "Calls that failed",
            "sum by (service, code) (rate(saeserve_grpc_requests_total"
            '{code=~"INTERNAL|UNKNOWN|UNAVAILABLE"}[5m]))',
            "{{service}} {{code}}",
            "reqps",
        ),
        one(
            "Memory of processes",
            'process_resident_memory_bytes{job=~"control|worker|inference"}',
            "{{job}} {{instance}}",
            "bytes",
        ),
        one(
            "Processor time",
            'rate(process_cpu_seconds_total{job=~"control|worker|inference"}[5m])',
            "{{job}} {{instance}}",
        ),
        one(
            "What runs", "saeserve_build_info", "{{service}} {{version}} {{revision}}", kind="table"
        ),
    ),
)

DASHBOARDS = (FLEET, TRAINING, INFERENCE, STORE)
