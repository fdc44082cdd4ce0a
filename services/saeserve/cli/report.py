"""`saeserve report`: the explorer's pages of jobs and models as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeserve.cli.output import Json, connect, told
from saeserve.cli.refusals import not_installed


def report(
    names: Annotated[list[str], typer.Argument(help="Ids of jobs, and models: name, name@3.")],
    out: Annotated[
        Path, typer.Option(help="Folder to make; an earlier report is replaced.")
    ] = Path("report"),
    features: Annotated[
        int, typer.Option(min=0, help="Features of each model, the densest first.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Write the explorer's pages of jobs and models as files that any browser opens.

    A job's report holds its curves and the models that it made or looked at, with their features
    if those were collected.
    """
    try:
        from saeserve.explorer.report_files import write_report
    except ImportError as error:
        raise not_installed(error, "explorer") from error
    with connect() as client:
        written = write_report(client, names, out, features=features)
    told(f"{written.pages} pages: open {written.folder}/index.html", written, as_json)
