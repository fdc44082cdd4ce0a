"""`saeserve submit train|harvest|ingest|evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from saeserve.cli import specs
from saeserve.cli.output import Json
from saeserve.cli.sending import File, Priority, RequestId, Set, WaitsFor, Watch, send

app = typer.Typer(no_args_is_help=True, help="Submit a job.")


@app.command()
def train(
    file: File = None,
    dataset: Annotated[str | None, typer.Option(help="Data set to train on.")] = None,
    source: Annotated[str | None, typer.Option(help="Source in it, e.g. resid_post.15.")] = None,
    target_source: Annotated[
        str | None, typer.Option(help="Source to predict from --source: a transcoder.")
    ] = None,
    skip_connection: Annotated[
        bool, typer.Option("--skip-connection", help="Adds x W_skipᵀ to what it predicts.")
    ] = False,
    sources: Annotated[
        list[str] | None, typer.Option(help="Source of a crosscoder; give two or more.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model to publish.")] = None,
    preset: Annotated[str | None, typer.Option(help="Documented config to start from.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Published model to go on from.")] = None,
    topk: Annotated[int | None, typer.Option("--topk", help="TopK with this k.")] = None,
    jumprelu: Annotated[bool, typer.Option("--jumprelu", help="JumpReLU, January 2025.")] = False,
    d_sae: Annotated[int | None, typer.Option("--d-sae", help="Number of latents.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Rows to train on: 500k, 2M …")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Values to try: k=16,32,64; again for another field.")
    ] = None,
    set_: Set = None,
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Train an SAE on a data set, or with --sweep a grid of them on the same rows."""
    flags: specs.Tree = {
        "dataset": dataset,
        "source": source,
        "target_source": target_source,
        "skip_connection": skip_connection or None,
        "sources": sources or None,
        "model": model,
        "preset": preset,
        "init_from": init_from,
        "d_sae": d_sae,
        "tokens": specs.count(tokens),
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "seed": seed,
        "sweep": specs.grid(sweep),
        "topk.k": topk,
        "jumprelu": {} if jumprelu else None,
    }
    spec = specs.build("train", file, flags, set_ or [])
    send(spec, waits_for, request_id, priority, watch, as_json)


@app.command()
def harvest(
    file: File = None,
    dataset: Annotated[str | None, typer.Option(help="Data set to make.")] = None,
    language_model: Annotated[str | None, typer.Option(help="Folder, root:relative.")] = None,
    gguf_file: Annotated[str | None, typer.Option(help="GGUF file in that folder.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text, root:relative.")] = None,
    text_format: Annotated[str, typer.Option(help="text, lines or jsonl.")] = "text",
    site: Annotated[list[str] | None, typer.Option(help="hook.layer: resid_post.15")] = None,
    max_tokens: Annotated[str | None, typer.Option(help="Rows to store at most.")] = None,
    set_: Set = None,
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Run a language model over text and store its activations."""
    flags: specs.Tree = {
        "dataset": dataset,
        "language_model.path": language_model,
        "language_model.gguf_file": gguf_file,
        "texts": [{"path": path, "format": text_format} for path in text] if text else None,
        "sites": [_site(name) for name in site] if site else None,
        "max_tokens": specs.count(max_tokens),
    }
    spec = specs.build("harvest", file, flags, set_ or [])
    send(spec, waits_for, request_id, priority, watch, as_json)


@app.command()
def ingest(
    file: File = None,
    dataset: Annotated[str | None, typer.Option(help="PENDING data set.")] = None,
    set_: Set = None,
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Verify uploaded or registered activations and adopt them."""
    spec = specs.build("ingest", file, {"dataset": dataset}, set_ or [])
    send(spec, waits_for, request_id, priority, watch, as_json)


@app.command()
def evaluate(
    file: File = None,
    model: Annotated[str | None, typer.Option(help="Model, e.g. my-sae@prod.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set with held-out rows.")] = None,
    loss_recovered: Annotated[bool, typer.Option(help="Splice into the model.")] = False,
    set_: Set = None,
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on held-out rows."""
    flags: specs.Tree = {
        "model": model,
        "dataset": dataset,
        "loss_recovered": {} if loss_recovered else None,
    }
    spec = specs.build("evaluate", file, flags, set_ or [])
    send(spec, waits_for, request_id, priority, watch, as_json)


def _site(name: str) -> dict[str, object]:
    hook, dot, layer = name.rpartition(".")
    if not dot or not layer.isdigit():
        raise typer.BadParameter(f"site {name!r}: write hook.layer, e.g. resid_post.15")
    return {"hook": hook, "layer": int(layer)}
