"""`saeserve models import|export|download`: models to and from other libraries and machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from saeserve.cli.cards import CARD, card_of
from saeserve.cli.local_paths import is_local
from saeserve.cli.model_files import sent_beside, sent_folders
from saeserve.cli.output import Json, connect, errors
from saeserve.cli.refusals import writing
from saeserve.cli.specs import Tree
from saeserve.cli.transferring import say_where, shown

IMPORTS = (
    "saeserve, saelens, dictionary_learning, sparsify, gemma_scope, gemma_scope_2, llama_scope "
    "or openai."
)
EXPORTS = "saelens, dictionary_learning or sparsify."


def import_model(
    name: Annotated[str, typer.Argument(help="Name of the model to publish.")],
    path: Annotated[str, typer.Argument(help="Its folder or file: local, or root:relative.")],
    format: Annotated[str, typer.Option(help=IMPORTS)],
    source: Annotated[str | None, typer.Option(help="What it reads, e.g. resid_post.8.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What it writes; the source for an autoencoder.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="Rows to compare on: .npy, local or root:relative.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Their features there: .npy.")] = None,
    reconstruction: Annotated[str | None, typer.Option(help="Their outputs there: .npy.")] = None,
) -> Tree:
    """Publish a model from another library's files; nothing in them is executed.

    Local files are uploaded first. Repeat the command after an interruption: it goes on where it
    broke off.
    """
    reference = {
        "activations": activations,
        "features": features,
        "reconstruction": reconstruction,
    }
    given = {key: value for key, value in reference.items() if value is not None}
    path, given = _uploaded(path, given, format)
    job: dict[str, Any] = {"model": name, "path": path, "format": format}
    if source is not None:
        job["source"] = source
    if target is not None:
        job["target"] = target
    if given:
        job["reference"] = given
    return {"import_model": job}


def export_model(
    reference: Annotated[str, typer.Argument(help="name, name@3 or name@alias.")],
    format: Annotated[str, typer.Option(help=EXPORTS)],
) -> Tree:
    """Write a model for another library, into exports/<name>/<n>/<format> of the store."""
    return {"export_model": {"model": reference, "format": format}}


def download_model(
    reference: Annotated[str, typer.Argument(help="name, name@3 or name@alias.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder to make; left out: <name>-<version>.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help=f"The export for another library: {EXPORTS}")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a version of a model, or what `models export` made of it.

    README.md tells the figures of its newest evaluation, too. Repeat the command after an
    interruption: it goes on where it broke off.
    """
    with connect() as client, shown() as progress:
        model = client.models.get(reference)
        resource, name = model.resource, f"{model.name}-{model.version}"
        if format is not None:
            resource, name = f"exports/{model.name}/{model.version}/{format}", f"{name}-{format}"
        done = client.transfers.download(resource, folder or Path(name), progress)
        card = card_of(client, model.resource, done.folder)
    if card is not None:
        with writing(done.folder / CARD) as path:
            path.write_bytes(card)
    say_where(done, as_json)


def _uploaded(path: str, reference: Mapping[str, str], format: str) -> tuple[str, dict[str, str]]:
    """Where the server finds what was named: local files, once they are uploaded, in the upload.

    Raises InvalidArgumentError for what is neither there nor has the form root:relative.
    """
    local = Path(path)
    names = {"path": "/".join(("model", *sent_folders(local)))}
    names |= {key: f"reference/{key}.npy" for key in reference}
    given = {"path": path, **reference}
    items = {names[key]: Path(text) for key, text in given.items() if is_local(text, key)}
    if format == "sparsify" and names["path"] in items:
        items |= sent_beside(local, names["path"])
    if items:
        errors.print(f"uploading {', '.join(str(item) for item in items.values())}")
        with connect() as client, shown() as progress:
            upload = client.transfers.upload(items, progress)
        given |= {key: f"{upload}/{names[key]}" for key in given if names[key] in items}
    return given.pop("path"), given
