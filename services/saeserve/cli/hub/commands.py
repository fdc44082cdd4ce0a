"""`saeserve models hub-push|hub-pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeserve.cli.hub import access
from saeserve.cli.hub.layouts import OURS
from saeserve.cli.hub.pulling import Source, checked_folder, pull
from saeserve.cli.hub.pushing import MAIN, Wanted, push
from saeserve.cli.interchange import EXPORTS, IMPORTS
from saeserve.cli.output import Json, connect, told
from saeserve.cli.specs import Tree

TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the Hub's token; left out: HF_TOKEN, or that of hf auth login."),
]


def hub_push(
    reference: Annotated[str, typer.Argument(help="name, name@3 or name@alias.")],
    repo: Annotated[str, typer.Argument(help="Repository of the Hub, as owner/name.")],
    format: Annotated[
        str, typer.Option(help=f"saeserve, or an export that was made before: {EXPORTS}")
    ] = OURS,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read it; left out: a private one.")
    ] = False,
    branch: Annotated[str, typer.Option(help="Branch to commit to; made if need be.")] = MAIN,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Push a version of a model to the Hugging Face Hub, with its card, in one commit.

    Repeat the command after an interruption: it goes on where it broke off.
    """
    access.repository(repo)
    access.revision(branch, "branch")
    hub = access.hub_api(token_file, needs_token=True)
    with connect() as client:
        model = client.models.get(reference)
        wanted = Wanted(model.resource, format, repo, branch=branch, public=public)
        done = push(client, hub, wanted)
    told(f"{model.resource} is at {done.url}", done, as_json)


def hub_pull(
    repo: Annotated[str, typer.Argument(help="Repository, as owner/name or owner/name@revision.")],
    model: Annotated[str, typer.Option(help="Name of the model to publish.")],
    path: Annotated[str, typer.Option(help="Folder of the repository, or its file.")] = "",
    format: Annotated[
        str | None, typer.Option(help=f"Left out: known by the names of its files. {IMPORTS}")
    ] = None,
    source: Annotated[str | None, typer.Option(help="What it reads, e.g. resid_post.8.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What it writes; the source for an autoencoder.")
    ] = None,
    token_file: TokenFile = None,
) -> Tree:
    """Publish a model from a repository of the Hugging Face Hub; nothing in it is executed.

    Repeat the command after an interruption: it goes on where it broke off.
    """
    name, at, revision = repo.partition("@")
    access.repository(name)
    wanted = Source(
        repo=name,
        revision=access.revision(revision, "repo") if at else None,
        folder=checked_folder(path),
        format=format,
    )
    hub = access.hub_api(token_file)
    with connect() as client:
        found = pull(client, hub, wanted, model)
    places = {"source": source, "target": target}
    given = {key: value for key, value in places.items() if value is not None}
    return {"import_model": {"model": model, **found, **given}}
