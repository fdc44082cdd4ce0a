"""`saeserve models import|export`: jobs that exchange models with other libraries."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from saeserve.cli.output import Json
from saeserve.cli.sending import Priority, RequestId, WaitsFor, Watch, send

IMPORTS = (
    "saelens, dictionary_learning, sparsify, gemma_scope, gemma_scope_2, llama_scope or openai."
)
EXPORTS = "saelens, dictionary_learning or sparsify."


def import_model(
    name: Annotated[str, typer.Argument(help="Name of the model to publish.")],
    path: Annotated[str, typer.Argument(help="Its folder or file, root:relative.")],
    format: Annotated[str, typer.Option(help=IMPORTS)],
    source: Annotated[str | None, typer.Option(help="What it reads, e.g. resid_post.8.")] = None,
    activations: Annotated[
        str | None, typer.Option(help="Rows to compare on: .npy, root:relative.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Their features there: .npy.")] = None,
    reconstruction: Annotated[str | None, typer.Option(help="Their outputs there: .npy.")] = None,
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Publish a model from another library's files; nothing in them is executed."""
    reference = {
        "activations": activations,
        "features": features,
        "reconstruction": reconstruction,
    }
    given = {key: value for key, value in reference.items() if value is not None}
    job: dict[str, Any] = {"model": name, "path": path, "format": format}
    if source is not None:
        job["source"] = source
    if given:
        job["reference"] = given
    send({"import_model": job}, waits_for, request_id, priority, watch, as_json)


def export_model(
    reference: Annotated[str, typer.Argument(help="name, name@3 or name@alias.")],
    format: Annotated[str, typer.Option(help=EXPORTS)],
    waits_for: WaitsFor = None,
    request_id: RequestId = None,
    priority: Priority = 0,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Write a model for another library, into exports/<name>/<n>/<format> of the store."""
    spec = {"export_model": {"model": reference, "format": format}}
    send(spec, waits_for, request_id, priority, watch, as_json)
