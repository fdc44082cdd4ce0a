"""What the services tell Prometheus, beside the jobs' own counts."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from saeserve.client.values import Job

Samples = Mapping[tuple[str, str], float]
"""Values by (sample name, first label value or "")."""
PROBE_SECONDS = 5.0


def scrape(address: str) -> Samples:
    """Every sample of one process's /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PROBE_SECONDS) as answer:
        text = answer.read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def compare(
    control: Samples,
    worker: Samples,
    inference: Samples,
    jobs: Iterable[Job],
    encoded_rows: int,
    since: datetime,
) -> list[tuple[str, float, float]]:
    """(what, by the metrics, by the jobs' own records) of the services started at `since`."""
    known = list(jobs)
    trained = [j for j in known if j.kind == "train" and j.started and j.started >= since]
    tokens = sum(int(job.progress.metrics.get("tokens", 0)) for job in trained)
    rows: list[tuple[str, float, float]] = [
        ("training tokens", worker[("saeserve_train_tokens_total", "")], tokens),
        ("encoded rows", inference[("saeserve_encode_rows_total", "")], encoded_rows),
    ]
    if trained:
        latest = max(trained, key=lambda job: job.started or since)
        dead = latest.progress.metrics.get("dead", 0.0)
        rows.append(("dead latents", worker[("saeserve_train_dead_latents", "0")], dead))
    states = Counter(job.state for job in known)
    for state, count in sorted(states.items()):
        rows.append((f"jobs {state}", control[("saeserve_jobs", state)], count))
    return rows
