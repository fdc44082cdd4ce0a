"""What the services report to Prometheus, next to the jobs' own counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from saeserve.client.values import Job

Samples = Sequence[Sample]
PROBE_SECONDS = 5.0


def scrape(address: str) -> Samples:
    """Every sample of one process's /metrics."""
    # The process at this very address is meant, whatever proxies the environment names.
    direct = build_opener(ProxyHandler({}))
    with direct.open(f"http://{address}/metrics", timeout=PROBE_SECONDS) as answer:
        text = answer.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels. Raises LookupError when there is
    none: the services let these begin at 0, so one that is missing has another name by now."""
    found = [
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    if not found:
        raise LookupError(f"no service has a metric {name} with {labels}")
    return sum(found)


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
        ("training tokens", total(worker, "saeserve_train_tokens_total"), tokens),
        ("encoded rows", total(inference, "saeserve_encode_rows_total"), encoded_rows),
    ]
    states = Counter(job.state for job in known)
    for state, count in sorted(states.items()):
        rows.append((f"jobs {state}", total(control, "saeserve_jobs", state=state), count))
    return rows
