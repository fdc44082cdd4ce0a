"""The panels of the Grafana dashboards: titles, queries, legends and units."""

from __future__ import annotations

from tests.repo.panels import (
    LONG_WINDOW,
    YES_OR_NO,
    Dashboard,
    Panel,
    counts,
    happened,
    one,
    quantile,
    split,
    stat,
)

TRAINED = 'instance=~"$worker"'
LIVE = 'saeserve_jobs{state!~"SUCCEEDED|FAILED|CANCELLED"}'
HOUR = "In the hour before."


def training(metric: str) -> str:
    """A figure of training with the name of its model, which the info series has by its number."""
    figure = f"saeserve_train_{metric}{{{TRAINED}}}"
    info = f"saeserve_attempt_model_info{{{TRAINED}}}"
    return f"{figure} * on (instance, member) group_left (model) {info}"


FLEET = Dashboard(
    "saeserve-fleet",
    "saeserve: fleet and queue",
    (
        stat("Running jobs", 'sum(saeserve_jobs{state="RUNNING"})'),
        stat("Queued jobs", 'sum(saeserve_jobs{state="QUEUED"})'),
        stat("Live workers", "max by (class) (saeserve_workers)", legend="{{class}}"),
        stat(
            "Oldest queued job",
            "max(saeserve_oldest_queued_job_age_seconds)",
            "s",
            colours=((None, "green"), (600, "orange"), (3600, "red")),
        ),
        stat(
            "Failed in the last day",
            'sum(increase(saeserve_jobs_finished_total{state="FAILED"}[1d]))',
            decimals=0,
            colours=((None, "green"), (0.5, "orange")),
        ),
        stat(
            "Reconciler's last round",
            "min(saeserve_reconciler_last_round_age_seconds)",
            "s",
            colours=((None, "green"), (10, "orange"), (60, "red")),
        ),
        counts("Jobs by state and class", *split(LIVE, "state, class", "{{state}} {{class}}")),
        one(
            "Oldest queued job",
            "max by (class) (saeserve_oldest_queued_job_age_seconds)",
            "{{class}}",
            "s",
        ),
        counts("Live workers", ("max by (class) (saeserve_workers)", "{{class}}")),
        counts(
            "Jobs ended",
            (
                f"sum by (state) (increase(saeserve_jobs_finished_total[{LONG_WINDOW}]))",
                "{{state}}",
            ),
            text=HOUR,
        ),
        counts(
            "Failures by code",
            *happened("saeserve_job_failures_total", "code", "{{code}}"),
            text=f"{HOUR} ERRORS.md explains the codes.",
        ),
        counts(
            "Attempts by outcome",
            *happened("saeserve_attempts_total", "outcome", "{{outcome}}"),
            text=HOUR,
        ),
        Panel(
            "Wait in the queue",
            tuple(
                (quantile("saeserve_job_queue_wait_seconds", share, window=LONG_WINDOW), name)
                for share, name in ((0.5, "half wait less"), (0.95, "95 % wait less"))
            ),
            "s",
            text="Of the jobs that began in the hour before.",
        ),
        one(
            "Duration of jobs",
            quantile("saeserve_job_duration_seconds", 0.95, "le, kind", window=LONG_WINDOW),
            "{{kind}}",
            "s",
            text="95 % of those that ended in the hour before took less.",
        ),
        counts(
            "Recoveries",
            *(
                (f"sum(increase(saeserve_{metric}_total[{LONG_WINDOW}]))", name)
                for metric, name in (
                    ("leases_expired", "leases expired"),
                    ("fenced", "attempts fenced"),
                    ("doorbells_republished", "doorbells republished"),
                    ("index_rebuilds", "index rebuilds"),
                )
            ),
            text=HOUR,
        ),
        one("Running attempts", "saeserve_attempt_info", "", kind="table", width=12),
        one(
            "Nothing has moved for",
            "saeserve_worker_still_seconds",
            "{{instance}}",
            "s",
            width=12,
            text="In the job that the worker runs; 0 where it runs none.",
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
        one("Job", f"saeserve_attempt_info{{{TRAINED}}}", "", kind="table", width=12),
        one("Models", f"saeserve_attempt_model_info{{{TRAINED}}}", "", kind="table", width=12),
        one("Loss terms", training("loss"), "{{model}} {{term}}", log=True),
        one(
            "FVU",
            training("fvu"),
            "{{model}}",
            "percentunit",
            text="Fraction of variance unexplained on the latest batch; lower is better.",
        ),
        Panel(
            "L0 against its target",
            (
                (training("l0"), "{{model}}"),
                (training("l0_target"), "{{model}} target"),
            ),
        ),
        one(
            "Dead latents",
            training("dead_latents"),
            "{{model}}",
            text="Those that have not fired for dead_window_tokens rows.",
        ),
        one("Learning rate", training("learning_rate"), "{{model}}"),
        one("Rows a second", training("tokens_per_second"), "{{model}}"),
        one(
            "Time that waits for data",
            training("data_waiting_ratio"),
            "{{model}}",
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
            text="How long ago the job last reported figures.",
        ),
        counts(
            "Warnings",
            *happened(f"saeserve_job_warnings_total{{{TRAINED}}}", "code", "{{code}}"),
            text=f"{HOUR} ERRORS.md explains the codes.",
        ),
        Panel(
            "Rows trained and harvested",
            tuple(
                (f"rate(saeserve_{metric}_tokens_total{{{TRAINED}}}[$__rate_interval])", name)
                for metric, name in (("train", "trained"), ("harvest", "harvested"))
            ),
            text="A second, of all members of a sweep together.",
        ),
        counts(
            "Members that diverged",
            (
                f"increase(saeserve_train_diverged_members_total{{{TRAINED}}}[{LONG_WINDOW}])",
                "{{instance}}",
            ),
            text=HOUR,
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
            tuple(
                (f"sum(rate(saeserve_{name}_rows_total[$__rate_interval]))", name)
                for name in ("encode", "decode", "reconstruct")
            ),
        ),
        Panel(
            "Calls a second by code",
            split(
                'saeserve_grpc_requests_total{service="saeserve.v1.InferenceService"}',
                "code",
                "{{code}}",
                over="rate({}[$__rate_interval])",
            ),
            "reqps",
        ),
        Panel(
            "Latency of Encode",
            tuple(
                (
                    quantile("saeserve_grpc_request_seconds", share, where='{method="Encode"}'),
                    f"{share:.0%} take less",
                )
                for share in (0.5, 0.95, 0.99)
            ),
            "s",
        ),
        one(
            "Latency by model",
            quantile("saeserve_model_request_seconds", 0.95, "le, model, operation"),
            "{{model}} {{operation}}",
            "s",
            text="95 % of the requests take less.",
        ),
        counts(
            "Errors by model",
            *happened(
                "saeserve_model_errors_total",
                "model, operation, reason",
                "{{model}} {{operation}} {{reason}}",
            ),
            text=f"{HOUR} ERRORS.md explains the reasons.",
        ),
        Panel(
            "Refused a second",
            split(
                "saeserve_rejected_total",
                "reason",
                "{{reason}}",
                over="rate({}[$__rate_interval])",
            ),
            "reqps",
        ),
        one("Rows that wait", "sum by (instance) (saeserve_queue_rows)", "{{instance}}"),
        one(
            "Wait for the device",
            quantile("saeserve_queue_wait_seconds", 0.95),
            "95 % wait less",
            "s",
        ),
        Panel(
            "Rows of a batch",
            (
                (quantile("saeserve_batch_rows", 0.5), "half have less"),
                (quantile("saeserve_batch_rows", 0.95), "95 % have less"),
            ),
        ),
        one(
            "Time by stage",
            "sum by (stage) (rate(saeserve_stage_seconds_sum[$__rate_interval]))",
            "{{stage}}",
            "s",
            text="Seconds spent in each second.",
        ),
        counts(
            "Model loads",
            (
                f"sum by (result) (increase(saeserve_model_loads_total[{LONG_WINDOW}]))",
                "{{result}}",
            ),
            text=HOUR,
        ),
        one(
            "Models in memory",
            "sum by (instance) (saeserve_models_resident_bytes)",
            "{{instance}}",
            "bytes",
        ),
        counts("Bundles opened", *happened("saeserve_bundle_opens_total", "result", "{{result}}")),
        one("Bundles open", "sum by (instance) (saeserve_bundles_open)", "{{instance}}"),
    ),
)

STORE = Dashboard(
    "saeserve-store",
    "saeserve: Valkey, store and services",
    (
        stat("Valkey answers", "max(saeserve_redis_up)", words=YES_OR_NO),
        stat("Valkey can save its log", "min(saeserve_redis_persistence_ok)", words=YES_OR_NO),
        stat("Store is there", "min(saeserve_store_up)", words=YES_OR_NO),
        stat(
            "Store free",
            "min(saeserve_store_free_bytes) / min(saeserve_store_size_bytes)",
            "percentunit",
            colours=((None, "red"), (0.1, "orange"), (0.2, "green")),
        ),
        stat(
            "Certificate expires in",
            "min(saeserve_tls_certificate_expiry_timestamp_seconds) - time()",
            "s",
            colours=((None, "red"), (14 * 86400, "orange"), (30 * 86400, "green")),
            no_value="no TLS",
        ),
        stat(
            "Control services that lead",
            "sum(saeserve_reconciler_leading)",
            colours=((None, "red"), (1, "green"), (2, "red")),
        ),
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
        counts(
            "Store errors",
            *happened("saeserve_store_errors_total", "reason", "{{reason}}"),
            text=HOUR,
        ),
        one(
            "Reconciler's last round",
            "saeserve_reconciler_last_round_age_seconds",
            "{{instance}}",
            "s",
            text="How long ago it ended.",
        ),
        counts(
            "Checkpoints",
            (f"sum(increase(saeserve_checkpoints_total[{LONG_WINDOW}]))", "committed"),
            (
                f"sum by (code) (increase(saeserve_checkpoint_failures_total[{LONG_WINDOW}]))",
                "{{code}}",
            ),
            text=HOUR,
        ),
        Panel(
            "Calls that failed",
            split(
                'saeserve_grpc_requests_total{code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS"}',
                "service, code",
                "{{service}} {{code}}",
                over="rate({}[$__rate_interval])",
            ),
            "reqps",
        ),
        counts(
            "Pages", *happened("saeserve_http_requests_total", "status", "{{status}}"), text=HOUR
        ),
        counts("Plots", *happened("saeserve_pictures_total", "result", "{{result}}"), text=HOUR),
        one(
            "Memory of processes",
            'process_resident_memory_bytes{job=~"control|worker|inference|explorer"}',
            "{{job}} {{instance}}",
            "bytes",
        ),
        one(
            "Processor cores in use",
            'rate(process_cpu_seconds_total{job=~"control|worker|inference|explorer"}[$__rate_interval])',
            "{{job}} {{instance}}",
            text="Without those of job processes.",
        ),
        one("What runs", "saeserve_build_info", "", kind="table"),
    ),
)

DASHBOARDS = (FLEET, TRAINING, INFERENCE, STORE)
