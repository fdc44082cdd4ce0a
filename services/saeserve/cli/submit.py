"""`saeserve submit train|harvest|ingest|evaluate|collect`: flags to specs, which are sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import typer

from saeserve.cli import specs
from saeserve.cli.joining import joined
from saeserve.cli.refusals import refused
from saeserve.cli.sending import File, Set, send
from saeserve.cli.training_flags import train


def harvest(
    file: File = None,
    dataset: Annotated[str | None, typer.Option(help="Data set to make.")] = None,
    language_model: Annotated[
        str | None,
        typer.Option(help="Its folder, as root:relative; roots are named in SAESERVE_ROOTS."),
    ] = None,
    gguf_file: Annotated[str | None, typer.Option(help="GGUF file in that folder.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="File or folder of text, as root:relative; may be repeated."),
    ] = None,
    text_format: Annotated[str, typer.Option(help="text, lines, jsonl or chat.")] = "text",
    site: Annotated[
        list[str] | None,
        typer.Option(help="hook.layer, e.g. mlp_in.15, attn_z.15.head3; may be repeated."),
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(help="Tokens to read at most: 500k, 2M …")
    ] = None,
    bos: Annotated[
        str | None, typer.Option(help="BOS before every sequence: prepend, none or model.")
    ] = None,
    special_token_rows: Annotated[
        str | None, typer.Option(help="Rows of special tokens: store or drop.")
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(help="Positions of each sequence to store, as a Python slice: 1:-1."),
    ] = None,
    packing: Annotated[
        str | None, typer.Option(help="Several documents a context: none, joined or separate.")
    ] = None,
    set_: Set = None,
) -> specs.Tree:
    """Run a language model over text and store its activations."""
    flags: specs.Tree = {
        "dataset": dataset,
        "language_model.path": language_model,
        "language_model.gguf_file": gguf_file,
        "texts": [{"path": path, "format": text_format} for path in text] if text else None,
        "sites": [_site(name) for name in site] if site else None,
        "max_tokens": max_tokens,
        "bos": bos,
        "special_token_rows": special_token_rows,
        "packing": packing,
        **(_positions(positions) if positions else {}),
    }
    return specs.build("harvest", file, flags, set_ or [])


def ingest(
    file: File = None,
    dataset: Annotated[str | None, typer.Option(help="PENDING data set.")] = None,
    set_: Set = None,
) -> specs.Tree:
    """Verify uploaded or registered activations and adopt them."""
    return specs.build("ingest", file, {"dataset": dataset}, set_ or [])


def evaluate(
    file: File = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, e.g. my-sae@prod; may be repeated: the passes are shared."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set with held-out rows.")] = None,
    loss_recovered: Annotated[
        bool, typer.Option(help="Splice into the language model: --tier 1.")
    ] = False,
    tier: Annotated[
        int, typer.Option(min=0, max=1, help="0: held-out rows alone; 1: spliced as well.")
    ] = 0,
    arms: Annotated[
        str | None,
        typer.Option(help="What to compare a splice with; all: mean,zero,pca,random."),
    ] = None,
    splice_tokens: Annotated[
        str | None, typer.Option(help="Held-out tokens to splice into: 8k, 32k …")
    ] = None,
    contexts: Annotated[
        int | None, typer.Option(min=0, help="Features to show where they fire most.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of resamples and baselines.")] = None,
    set_: Set = None,
) -> specs.Tree:
    """Evaluate models on held-out rows."""
    models, spliced = model or [], loss_recovered or tier > 0
    flags: specs.Tree = {
        "model": models[0] if models else None,
        "models": models[1:] or None,
        "dataset": dataset,
        "loss_recovered": {} if spliced else None,
        "loss_recovered.max_tokens": splice_tokens,
        "loss_recovered.arms": arms.split(",") if arms else None,
        "context_features": contexts,
        "seed": seed,
    }
    return specs.build("evaluate", file, flags, set_ or [])


def collect(
    file: File = None,
    model: Annotated[str | None, typer.Option(help="Model, e.g. my-sae@prod.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Harvested data set.")] = None,
    max_tokens: Annotated[
        str | None, typer.Option(help="Tokens to read at most: 500k, 2M …")
    ] = None,
    logits: Annotated[
        bool, typer.Option(help="Tokens whose logits features move; loads the language model.")
    ] = False,
    label_tokens: Annotated[
        str | None, typer.Option(help="Held-out rows to make and score labels on; 0: no labels.")
    ] = None,
    set_: Set = None,
) -> specs.Tree:
    """Collect what each feature of a model fires on, and label it."""
    flags: specs.Tree = {
        "model": model,
        "dataset": dataset,
        "max_tokens": max_tokens,
        "logits": logits or None,
        "label_tokens": label_tokens,
    }
    return specs.build("collect", file, flags, set_ or [])


MAKERS: dict[str, Callable[..., specs.Tree]] = {
    "train": train,
    "harvest": harvest,
    "ingest": ingest,
    "evaluate": evaluate,
    "collect": collect,
}
"""What makes the spec of each kind out of flags."""

app = typer.Typer(no_args_is_help=True, help="Submit a job.")
for _kind, _make in MAKERS.items():
    app.command(_kind)(joined(_make, send))


def _site(name: str) -> dict[str, object]:
    match = re.fullmatch(r"(\w+)\.([0-9]+)(?:\.head([0-9]+))?", name)
    if match is None:
        text = f"--site {name}: write hook.layer, such as resid_post.15, or attn_z.15.head3"
        raise refused(text, field="sites")
    parts: dict[str, object] = {"hook": match[1], "layer": int(match[2])}
    return parts if match[3] is None else parts | {"head": int(match[3])}


def _positions(text: str) -> dict[str, object]:
    match = re.fullmatch(r"(-?[0-9]+)?:(-?[0-9]+)?", text)
    if match is None:
        message = f"--positions {text}: write start:stop as in Python, such as 1:-1"
        raise refused(message, field="position_start")
    start, stop = match.groups()
    return {
        "position_start": int(start) if start else None,
        "position_stop": int(stop) if stop else None,
    }
