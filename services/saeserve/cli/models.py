"""`saeserve models ls|show|alias|rm` and `saeserve encode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from saeserve.cli.output import (
    Json,
    ago,
    connect,
    console,
    metrics_text,
    print_fields,
    print_json,
    print_table,
    size,
    told,
    warnings_text,
)
from saeserve.client import SparseFeatures
from saeserve.client.model_values import ModelSource

app = typer.Typer(no_args_is_help=True, help="Published models.")

SHOWN_ROWS = 20

Reference = Annotated[str, typer.Argument(help="name, name@3 or name@alias.")]


@app.command()
def ls(
    name: Annotated[str, typer.Argument(help="Only versions of this name.")] = "",
    as_json: Json = False,
) -> None:
    """List models and versions."""
    with connect() as client:
        found = list(client.models.list(name))
    if as_json:
        print_json(found)
        return
    print_table(
        ("model", "aliases", "architecture", "d_in", "d_sae", "fvu", "l0", "size", "created"),
        (
            (
                f"{model.name}@{model.version}",
                ", ".join(model.aliases),
                model.architecture,
                model.d_in,
                model.d_sae,
                f"{model.metrics['fvu']:.3f}" if "fvu" in model.metrics else None,
                f"{model.metrics['l0']:.1f}" if "l0" in model.metrics else None,
                size(model.size_bytes),
                ago(model.created),
            )
            for model in found
        ),
    )


@app.command()
def show(reference: Reference, as_json: Json = False) -> None:
    """Show one version."""
    with connect() as client:
        model = client.models.get(reference)
    if as_json:
        print_json(model)
        return
    print_fields(
        [
            ("resource", model.resource),
            ("aliases", ", ".join(model.aliases)),
            ("architecture", model.architecture),
            ("activation", model.activation + (f" k={model.k}" if model.k else "")),
            ("d_in, d_sae, d_out", f"{model.d_in}, {model.d_sae}, {model.d_out}"),
            ("reads", _axis(model.inputs)),
            ("writes", _axis(model.outputs) + (" with x W_skipᵀ" if model.skip_connection else "")),
            ("trained on", f"{model.dataset} {model.source}"),
            ("job", model.job),
            ("metrics", metrics_text(model.metrics)),
            ("warnings", warnings_text(model.warnings)),
            ("content", model.content_sha256),
        ]
    )


def _axis(sources: Sequence[ModelSource]) -> str:
    """Named columns: resid_post.3[0:576] resid_post.9[576:1152]."""
    return " ".join(f"{each.name}[{each.offset}:{each.offset + each.d}]" for each in sources)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str, typer.Argument(help="Alias, e.g. prod.")],
    version: Annotated[int | None, typer.Argument(help="Version; left out: newest.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    as_json: Json = False,
) -> None:
    """Point an alias at a version."""
    with connect() as client:
        if delete:
            client.models.delete_alias(name, alias)
            told(f"{name}@{alias} is gone", {"deleted": f"{name}@{alias}"}, as_json)
            return
        wanted = version or client.models.get(name).version
        model = client.models.set_alias(name, alias, wanted)
    told(f"{name}@{alias} is {model.resource}", model, as_json)


@app.command()
def rm(
    reference: Reference,
    force: Annotated[bool, typer.Option(help="Even when it is in use.")] = False,
    as_json: Json = False,
) -> None:
    """Delete one version."""
    with connect() as client:
        client.models.delete(reference, force=force)
    told(f"{reference} is gone", {"deleted": reference}, as_json)


def encode(
    reference: Reference,
    file: Annotated[Path, typer.Argument(help=".npy of raw activations, [..., d_in].")],
    out: Annotated[Path | None, typer.Option(help="Write model and CSR arrays here.")] = None,
    top: Annotated[int, typer.Option(help="Features shown for each row.")] = 8,
    as_json: Json = False,
) -> None:
    """Encode activations from a file."""
    activations = np.load(file, mmap_mode="r", allow_pickle=False)
    with connect() as client:
        features = client.encode(reference, activations)
    if out is not None:
        np.savez(
            out,
            shape=np.array(features.shape),
            offsets=features.offsets,
            indices=features.indices,
            values=features.values,
            model=np.array(features.model),
        )
    if as_json:
        print_json(features)
        return
    console.print(f"{features.model}: {features.rows} rows, l0 {features.l0:.1f}", highlight=False)
    beyond = [int(row) for row in features.beyond_norm_bound]
    if beyond:
        first = ", ".join(map(str, beyond[:SHOWN_ROWS])) + (", …" if beyond[SHOWN_ROWS:] else "")
        console.print(
            f"{len(beyond)} rows have a larger norm than the model was trained on: {first}",
            highlight=False,
        )
    print_table(("row", "feature=value"), _strongest(features, top))


def _strongest(features: SparseFeatures, top: int) -> Iterator[tuple[int, str]]:
    """The strongest features of the first rows."""
    for row in range(min(features.rows, SHOWN_ROWS)):
        indices, values = features.row(row)
        order = np.argsort(-values, kind="stable")[:top]
        yield row, "  ".join(f"{indices[i]}={values[i]:.3g}" for i in order)
