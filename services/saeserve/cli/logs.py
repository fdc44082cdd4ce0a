"""`saeserve jobs logs|download|metrics`: what the attempts of a job left in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeserve.cli.output import Json, connect, print_json
from saeserve.cli.transferring import download
from saeserve.client import Client
from saeserve.client.errors import NotFoundError
from saeserve.client.local_files import Listing, RemoteFile

JobId = Annotated[str, typer.Argument(help="Id of the job.")]


def logs(
    job: JobId,
    attempt: Annotated[int | None, typer.Option(help="Attempt; left out: the latest.")] = None,
    events: Annotated[bool, typer.Option(help="Events as JSON lines in place of the log.")] = False,
    as_json: Json = False,
) -> None:
    """Print the log of a job's process."""
    with connect() as client:
        listing = client.transfers.files(f"jobs/{job}/logs")
        files = _chosen(listing, job, attempt, "events.jsonl" if events else "log.txt")
        data = b"".join(_bytes(client, listing, files))
    text = data.decode(errors="replace")
    if as_json:
        number = int(files[0].name.partition("/")[0])
        print_json({"job": job, "attempt": number, "lines": text.splitlines()})
    else:
        typer.echo(text, nl=False)


def download_job(
    job: JobId,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    checkpoint: Annotated[
        bool, typer.Option(help="The newest checkpoint in place of logs and events.")
    ] = False,
    step: Annotated[int | None, typer.Option(help="The checkpoint of this step.")] = None,
    as_json: Json = False,
) -> None:
    """Download the logs and events of a job, or one of its checkpoints.

    Repeat the command after an interruption: it goes on where it broke off.
    """
    if step is not None:
        download(f"jobs/{job}/checkpoints/{step}", folder, as_json)
    else:
        download(f"jobs/{job}/{'checkpoints' if checkpoint else 'logs'}", folder, as_json)


def download_metrics(
    job: JobId,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder to make; left out: <job>-metrics.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download the curves of a training job: metrics.csv, and event files for TensorBoard.

    Look at them with: tensorboard --logdir <folder>. A job has curves once an attempt has ended.
    """
    download(f"jobs/{job}/metrics", folder or Path(f"{job}-metrics"), as_json)


def _chosen(listing: Listing, job: str, attempt: int | None, name: str) -> list[RemoteFile]:
    """The files that hold a log of one attempt, oldest lines first. Raises NotFoundError."""
    found: dict[int, list[RemoteFile]] = {}
    for file in listing.files:
        number, _, own = file.name.partition("/")
        if own == name or own.startswith(f"{name}."):
            found.setdefault(int(number), []).append(file)
    chosen = found.get(attempt if attempt is not None else max(found, default=0), [])
    if not chosen:
        which = "" if attempt is None else f" of attempt {attempt}"
        raise NotFoundError(
            f"job {job} has no {name}{which}",
            reason="LOG_NOT_FOUND",
            field="attempt",
            remedy="a job has logs once its first attempt has begun; see saeserve jobs show",
        )
    return sorted(chosen, key=lambda file: file.name, reverse=True)


def _bytes(client: Client, listing: Listing, files: list[RemoteFile]) -> list[bytes]:
    return [block for file in files for block in client.transfers.read(listing.resource, file)]
