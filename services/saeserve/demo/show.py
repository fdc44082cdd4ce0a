"""What the demo shows and leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from saeserve.cli.output import console, styled
from saeserve.cli.tables import print_table
from saeserve.client import Client
from saeserve.client.features import FloatArray
from saeserve.client.values import Job
from saeserve.control.settings import ControlSettings
from saeserve.demo import counts, presets, run, sentence
from saeserve.explorer.report_files import write_report
from saeserve.inference.settings import InferenceSettings
from saeserve.worker.settings import WorkerSettings

REPORT = "report"
"""Folder of the report."""
REPORTED_FEATURES = 30
SCRAPE_SECONDS = 6.0
"""Longer than the interval of deploy/prometheus/local.yml, so that it sees the last counts."""


def strongest_features(client: Client, words: list[str], rows: FloatArray) -> None:
    """Encode one sentence's activations through the service."""
    for preset in presets.SAES:
        features = client.encode(preset.model, rows)
        title = f"{preset.title}: strongest features of a sentence, encoded by {features.model}"
        found = zip(words, sentence.strongest(features), strict=True)
        print_table(("token", "feature=value"), found, title)


def figures(saes: list[dict[str, Any]]) -> None:
    """One column an SAE."""
    names = [name for name in saes[0] if name != "architecture"]
    rows = [(name, *(_cell(sae[name]) for sae in saes)) for name in names]
    columns = ("held-out documents", *(str(sae["architecture"]) for sae in saes))
    print_table(columns, rows, "Figures")


def metrics_addresses() -> dict[str, str]:
    """Where each of the services serves its metrics, by their own settings."""
    return {
        "control": ControlSettings.load().control_metrics_address,
        "worker": WorkerSettings.load().worker_metrics_address,
        "inference": InferenceSettings.load().inference_metrics_address,
    }


def metrics(client: Client, encoded_rows: int, since: datetime) -> None:
    """Compare /metrics with what the jobs say. The gauges of jobs follow within a second."""
    time.sleep(SCRAPE_SECONDS)
    found = {name: counts.scrape(address) for name, address in metrics_addresses().items()}
    compared = counts.compare(
        **found, jobs=client.jobs.list(), encoded_rows=encoded_rows, since=since
    )
    title = "Prometheus metrics next to the jobs' own counts"
    rows = ((what, f"{metric:,.0f}", f"{count:,.0f}") for what, metric, count in compared)
    print_table(("", "metrics", "own count"), rows, title)


def contexts(done: Mapping[str, Job]) -> None:
    """Five features of the first SAE with their top-activating contexts."""
    preset = presets.SAES[0]
    console.print(f"\n{preset.title}: five features and where they fire most", style="bold")
    for feature in evaluation(done[f"evaluate {preset.title}"])["features"]:
        console.print(f"feature {feature['feature']}, on {feature['frequency']:.2%} of tokens")
        for context in feature["contexts"]:
            before, after = _flat(context["before"])[-50:], _flat(context["after"])[:40]
            token = styled("reverse", _flat(context["token"]), after)
            console.print(Text(f"  {context['activation']:6.1f}  {before}").append_text(token))


def write(
    folder: Path, client: Client, saes: list[dict[str, Any]], done: Mapping[str, Job]
) -> None:
    """`summary.json`, and a report of all jobs."""
    (folder / "summary.json").write_text(json.dumps({"saes": saes}, indent=2) + "\n")
    names = [job.id for job in done.values()]
    write_report(client, names, folder / REPORT, features=REPORTED_FEATURES)


def _flat(text: str) -> str:
    return " ".join(text.split(" ")).replace("\n", "⏎")


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def evaluation(job: Job) -> Mapping[str, Any]:
    """The report of an evaluate job."""
    found = job.outputs[0].evaluation
    if found is None:
        raise run.DemoFailedError(f"job {job.id} has no evaluation among its outputs")
    return found
