"""`saeserve jobs export-metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from saeserve.cli.output import Json, connect, told
from saeserve.cli.refusals import refused
from saeserve.cli.tracking.mlflow import Mlflow
from saeserve.cli.tracking.runs import Tracker, runs_of
from saeserve.cli.tracking.wandb import WeightsAndBiases

_TRACKERS: Mapping[str, Callable[[], Tracker]] = {"wandb": WeightsAndBiases, "mlflow": Mlflow}


def export_metrics(
    job: Annotated[str, typer.Argument(help="Id of the job.")],
    to: Annotated[str, typer.Option(help="wandb or mlflow: installed with the extra so called.")],
    project: Annotated[
        str, typer.Option(help="Project of W&B, or experiment of MLflow.")
    ] = "saeserve",
    as_json: Json = False,
) -> None:
    """Send the curves of a training job to Weights & Biases or MLflow, from this machine.

    Where they are, and who you are there, their own variables and logins say. Repeat the command
    while the job goes on, or after an interruption: no point is there twice.
    """
    if to not in _TRACKERS:
        raise refused(f"--to {to} is not known", field="to", remedy="write wandb or mlflow")
    tracker = _TRACKERS[to]()
    with connect() as client:
        runs = runs_of(client, job)
    done = [tracker.export(run, project) for run in runs]
    lines = (f"{each.run}: {each.points} new points at {each.place}" for each in done)
    told("\n".join(lines), done, as_json)
