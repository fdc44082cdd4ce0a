"""`saeserve datasets ls|show|import|rm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeserve.cli.figures import ago, size
from saeserve.cli.local_paths import local_file
from saeserve.cli.output import Json, connect, errors, print_json, told
from saeserve.cli.tables import print_fields, print_table
from saeserve.cli.transferring import shown
from saeserve.cli.watching import follow
from saeserve.client.upload_checks import check_matrices

app = typer.Typer(no_args_is_help=True, help="Data sets of activations.")

Name = Annotated[str, typer.Argument(help="Name of the data set.")]


@app.command()
def ls(as_json: Json = False) -> None:
    """List data sets."""
    with connect() as client:
        found = list(client.datasets.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("name", "state", "rows", "held out", "sources", "size", "created"),
        (
            (
                dataset.name,
                dataset.state,
                f"{dataset.rows:,}",
                f"{dataset.heldout_rows:,}",
                ", ".join(f"{source['name']} [{source['d']}]" for source in dataset.sources),
                size(dataset.size_bytes),
                ago(dataset.created),
            )
            for dataset in found
        ),
    )


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one data set."""
    with connect() as client:
        dataset = client.datasets.get(name)
    if as_json:
        print_json(dataset)
        return
    print_fields(
        [
            ("name", dataset.name),
            ("state", dataset.state),
            ("failure", dataset.failure),
            ("what to do", _remedy(dataset.state, dataset.name)),
            ("rows", f"{dataset.rows:,} of which {dataset.heldout_rows:,} held out"),
            ("shards", dataset.shards),
            ("size", size(dataset.size_bytes)),
            ("type", dataset.dtype),
            ("language model", dataset.language_model),
            ("made by", dataset.job),
            ("manifest", dataset.manifest_sha256),
        ]
    )
    print_table(
        ("source", "d", "median norm", "massive rows"),
        (
            (
                source["name"],
                source["d"],
                f"{source.get('median_norm', 0):.3g}",
                source.get("massive_rows", 0),
            )
            for source in dataset.sources
        ),
    )


def _remedy(state: str, name: str) -> str:
    """How a name that failed can be used again."""
    return f"saeserve datasets rm {name}, then import it again" if state == "FAILED" else ""


@app.command("import")
def import_(
    name: Name,
    files: Annotated[
        list[str], typer.Argument(help="Local .npy or .safetensors files, or root:relative ones.")
    ],
    watch: Annotated[bool, typer.Option(help="Wait until it is verified.")] = True,
    as_json: Json = False,
) -> None:
    """Upload local .npy or .safetensors files, or register ones that the server can see, and
    ingest them."""
    here = {file: local_file(file, f"files[{n}]") for n, file in enumerate(files)}
    local = [Path(file) for file in files if here[file]]
    remote = [file for file in files if not here[file]]
    # All of them before the first is sent: what cannot be used must not leave a data set behind.
    check_matrices(local)
    with connect() as client:
        for file in local:
            errors.print(f"uploading {file} ({size(file.stat().st_size)})", highlight=False)
            with shown() as progress:
                client.datasets.upload(name, file, progress=progress)
        if remote:
            client.datasets.register(name, remote)
        job = client.jobs.submit({"ingest": {"dataset": name}})
        if watch:
            follow(client, job.id, as_json)
        else:
            told(job.id, job, as_json)


@app.command()
def rm(
    name: Name,
    force: Annotated[bool, typer.Option(help="Even when a live job uses it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a data set."""
    with connect() as client:
        client.datasets.delete(name, force=force)
    told(f"{name} is gone", {"deleted": name}, as_json)
