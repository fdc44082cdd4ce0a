"""Weights & Biases, as its own variables and login say: WANDB_MODE, WANDB_DIR, WANDB_ENTITY."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from saeserve.cli.tracking.runs import Exported, Run, failed, library, values_of


class WeightsAndBiases:
    """Runs in a project, by our own ids."""

    def __init__(self) -> None:
        self._wandb: Any = library("wandb", "wandb")

    def export(self, run: Run, project: str) -> Exported:
        """Add the points after the last step of the run there. Offline, the folder that holds the
        run is replaced by one with all points."""
        try:
            return self._exported(run, project)
        except self._wandb.Error as error:
            raise failed("Weights & Biases", error) from error

    def _exported(self, run: Run, project: str) -> Exported:
        there = self._wandb.init(
            project=project,
            id=run.id,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            # Curves alone: nothing of this machine.
            settings=self._wandb.Settings(
                console="off", x_disable_stats=True, x_disable_meta=True, save_code=False
            ),
        )
        folder = Path(there.dir).parent
        # Of a resumed run: the first step that it has not got.
        new = [point for point in run.points if point.step >= there.step]
        for point in new:
            there.log(values_of(point), step=point.step)
        place, offline = there.url or str(folder), there.offline
        there.finish()
        if offline:
            _replace(folder, run.id)
        return Exported(run.name, place, len(new))


def _replace(folder: Path, id: str) -> None:
    """Remove what earlier exports of the run left next to its `folder`."""
    for each in folder.parent.glob(f"offline-run-*-{id}"):
        if each != folder:
            shutil.rmtree(each)
