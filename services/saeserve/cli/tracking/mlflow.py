"""MLflow: where MLFLOW_TRACKING_URI says; a project is an experiment there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from saeserve.cli.tracking.runs import Exported, Run, failed, library, values_of

_TAG = "saeserve.run"
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000
"""What one call may carry (MLflow's REST API, "Log Batch")."""


class Mlflow:
    """Runs in an experiment; MLflow gives their ids, ours is a tag."""

    def __init__(self) -> None:
        self._mlflow: Any = library("mlflow", "mlflow")
        self._entities: Any = library("mlflow.entities", "mlflow")

    def export(self, run: Run, project: str) -> Exported:
        """Add the points whose steps are not in the run."""
        try:
            return self._exported(run, project)
        except self._mlflow.exceptions.MlflowException as error:
            raise failed("MLflow", error) from error

    def _exported(self, run: Run, project: str) -> Exported:
        client = self._mlflow.MlflowClient()
        id = self._run(client, run, project)
        # It is sent last of a point, so where it is the others are.
        there = {each.step for each in client.get_metric_history(id, "tokens")}
        new = [point for point in run.points if point.step not in there]
        metrics = [
            self._entities.Metric(name, value, int(point.time.timestamp() * 1000), point.step)
            for point in new
            for name, value in values_of(point).items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            client.log_batch(id, metrics=metrics[start : start + _MOST_METRICS])
        client.set_terminated(id)
        return Exported(run.name, f"{self._mlflow.get_tracking_uri()} run {id}", len(new))

    def _run(self, client: Any, run: Run, project: str) -> str:  # noqa: ANN401 - MLflow's
        """Id of the run, which is made with its spec where there is none."""
        known = client.get_experiment_by_name(project)
        experiment = client.create_experiment(project) if known is None else known.experiment_id
        for each in client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", max_results=1):
            return each.info.run_id
        tags = {_TAG: run.id}
        made = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [self._entities.Param(name, value) for name, value in flat(run.config)]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(made, params=params[start : start + _MOST_PARAMS])
        return made


def flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a spec by their dotted names, as texts of a length that MLflow takes."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(cast("Mapping[str, Any]", value), f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{above}{name}", text[:_LONGEST_PARAM]
