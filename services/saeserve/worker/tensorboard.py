"""Curves as event files of TensorBoard, a folder (a run, in its words) for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from saeserve.core.durable import sync
from saeserve.core.moving import moved
from saeserve.jobs.curves import Point

_VERSION = "brain.Event:2"
"""What TensorBoard looks for in a file's first record."""


def write_run(folder: Path, points: Sequence[Point]) -> Path:
    """Make `folder` with the file of one model's points, at least one; returns the file.

    Scalars are called as the columns of `metrics.csv`; steps are optimiser steps and times those
    of the reports. The same points give the same bytes.
    """
    folder.mkdir()
    path = folder / f"events.out.tfevents.{int(points[0].time)}.saeserve"
    writer = RecordWriter(str(path))
    try:
        first = Event(wall_time=points[0].time, file_version=_VERSION)
        writer.write(first.SerializeToString())
        for point in points:
            writer.write(_scalars(point).SerializeToString())
            moved()
    finally:
        writer.close()
    sync(path)
    sync(folder)
    return path


def _scalars(point: Point) -> Event:
    values = {"tokens": float(point.tokens), **point.values}
    summary = Summary(
        value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    )
    return Event(wall_time=point.time, step=point.step, summary=summary)
