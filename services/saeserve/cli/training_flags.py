"""The flags of a train job."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from saeserve.cli import specs
from saeserve.cli.sending import File, Set
from saeserve.client.architectures import ARCHITECTURES


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
    preset: Annotated[
        str | None, typer.Option(help="Documented config to start from: saeserve presets.")
    ] = None,
    init_from: Annotated[str | None, typer.Option(help="Published model to go on from.")] = None,
    target_l0: Annotated[
        str | None, typer.Option("--target-l0", help="Mean number of active latents a row.")
    ] = None,
    d_sae: Annotated[
        str | None, typer.Option("--d-sae", help="Number of latents: 4096, 32k …")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Rows to train on: 500k, 2M …")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw.")] = None,
    log_every_steps: Annotated[
        str | None, typer.Option(help="Steps between two reports of metrics.")
    ] = None,
    checkpoint_every_steps: Annotated[
        str | None, typer.Option(help="Steps between two checkpoints.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Values to try: k=16,32,64; again for another field.")
    ] = None,
    set_: Set = None,
    **architectures: str | bool | None,
) -> specs.Tree:
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
        **{f"{name}.k": k for name, k in architectures.items() if isinstance(k, str)},
        "target_l0": target_l0,
        "d_sae": d_sae,
        "tokens": tokens,
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "seed": seed,
        "log_every_steps": log_every_steps,
        "checkpoint_every_steps": checkpoint_every_steps,
        "device": device,
        "sweep": specs.grid(sweep),
    }
    spec = specs.build("train", file, flags, [])
    for name, chosen in architectures.items():
        if chosen is True:
            spec["train"].setdefault(name, {})
    return specs.overlaid(spec, "train", set_ or [])


def _flag(name: str, fields: tuple[str, ...]) -> inspect.Parameter:
    """--NAME K for an architecture that has a k, --NAME for another."""
    if "k" in fields:
        words, kind, default = f"{name} with this k.", str | None, None
    else:
        words, kind, default = f"{name}; its fields by --set {name}.FIELD=…", bool, False
    annotation = Annotated[kind, typer.Option(f"--{name}", help=words)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _add_architectures() -> None:
    """Give `train` a flag for each architecture of the API in the place of `**architectures`."""
    signature = inspect.signature(train, eval_str=True)
    *parameters, _ = signature.parameters.values()
    flags = [_flag(name, fields) for name, fields in ARCHITECTURES.items()]
    at = 1 + [each.name for each in parameters].index("init_from")
    placed = [each.replace(kind=flags[0].kind) for each in parameters]
    placed[at:at] = flags
    vars(train)["__signature__"] = signature.replace(parameters=placed)
    del train.__annotations__["architectures"]
    train.__annotations__ |= {each.name: each.annotation for each in flags}


_add_architectures()
