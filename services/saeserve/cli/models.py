"""`saeserve models ls|show|alias|rm`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from saeserve.cli.evaluated import print_evaluation
from saeserve.cli.field_sources import leaves, value_text
from saeserve.cli.figures import ago, listed, metrics_text, size
from saeserve.cli.output import Json, connect, print_json, told, warnings_text
from saeserve.cli.tables import print_fields, print_table
from saeserve.client.evaluated import newest_evaluation
from saeserve.client.model_values import Model, ModelSource

_ASKED = {"k", "target_l0", "tokens", "batch_size", "lr", "seed", "preset", "init_from"}
"""Fields of a train spec that a reader of a model asks for first."""

app = typer.Typer(no_args_is_help=True, help="Published models.")

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
def show(
    reference: Reference,
    every_field: Annotated[
        bool, typer.Option("--all", help="The whole spec that it was trained with, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one version, and where it comes from."""
    with connect() as client:
        model = client.models.get(reference)
        found = None if as_json else newest_evaluation(client.jobs, model.resource)
    if as_json:
        print_json(model)
        return
    print_fields(
        [
            ("resource", model.resource),
            ("aliases", ", ".join(model.aliases)),
            ("architecture", model.architecture),
            ("activation", model.activation + (f" k={model.k}" if model.k else "")),
            ("sizes", f"d_in {model.d_in}, d_sae {model.d_sae}, d_out {model.d_out}"),
            ("reads", _axis(model.inputs)),
            ("writes", _axis(model.outputs) + (" with x W_skipᵀ" if model.skip_connection else "")),
            ("data set", _data(model)),
            ("job", model.job),
            ("made by", f"saeserve {model.code_version}" if model.code_version else ""),
            ("lineage", lineage_text(model.lineage, every_field=every_field)),
            ("metrics", metrics_text(model.metrics)),
            ("warnings", warnings_text(model.warnings)),
            ("content", model.content_sha256),
        ]
    )
    if found is not None:
        job, output = found
        print_evaluation(output, f"evaluated by {job}")


def _data(model: Model) -> str:
    """What it was trained on; empty for an import."""
    content = f", content {model.dataset_sha256[:12]}" if model.dataset_sha256 else ""
    return f"{model.dataset} {model.source}{content}" if model.dataset else ""


def lineage_text(lineage: Mapping[str, Any], *, every_field: bool) -> str:
    """How the files of an import were read, a line for each fact; of a train spec what is most
    asked for, or `every_field`."""
    if not lineage:
        return ""
    if "imported_from" not in lineage:
        told = [(name, value) for name, value in leaves(lineage) if every_field or _asked(name)]
        more = "" if every_field else "; the whole spec: --all"
        return listed(f"{name} = {value_text(value)}" for name, value in told) + more
    return "\n".join(f"{name} = {value_text(value)}" for name, value in leaves(lineage))


def _asked(field: str) -> bool:
    return field.rpartition(".")[2] in _ASKED


def _axis(sources: Sequence[ModelSource]) -> str:
    """Named columns: resid_post.3[0:576] resid_post.9[576:1152]."""
    return " ".join(f"{each.name}[{each.offset}:{each.offset + each.d}]" for each in sources)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str, typer.Argument(help="Alias, e.g. prod.")],
    version: Annotated[
        int | None, typer.Argument(min=1, help="Version; left out: the newest.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    as_json: Json = False,
) -> None:
    """Point an alias at a version."""
    with connect() as client:
        if delete:
            client.models.delete_alias(name, alias)
            told(f"{name}@{alias} is gone", {"deleted": f"{name}@{alias}"}, as_json)
            return
        wanted = client.models.get(name).version if version is None else version
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
