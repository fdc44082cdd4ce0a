"""What the command line shows of a sweep's members."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from saeserve.cli import showing, specs
from saeserve.cli.bars import Bars
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.events import JobEvent, event_value
from saeserve.client.jobs import parse_spec
from saeserve.client.values import Job, JobFailure, JobOutput, job_value
from saeserve.v1 import job_pb2


def test_sweeps_are_written_field_by_field() -> None:
    grid = specs.grid(["k=16,32, 64", "lr=1e-3,3e-4"])
    message = parse_spec({"train": {"sweep": grid}}).train.sweep
    assert (list(message.k), list(message.lr)) == ([16, 32, 64], [1e-3, 3e-4])
    assert specs.grid(None) is None


@pytest.mark.parametrize(
    ("axes", "part"),
    [(["k"], "k=16,32,64"), (["k="], "k=16,32,64"), (["k=1,"], "k=16"), (["k=1", "k=2"], "twice")],
)
def test_a_sweep_that_is_written_badly_says_how(axes: list[str], part: str) -> None:
    with pytest.raises(InvalidArgumentError, match=part):
        specs.grid(axes)


def job(**fields: Any) -> Job:  # noqa: ANN401 - any field
    message = job_pb2.Job(id="j-1", state=job_pb2.JOB_STATE_SUCCEEDED, **fields)
    message.spec.train.SetInParent()
    return job_value(message)


def told(job: Job, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `jobs show` prints, errors after the rest."""
    outs = [Console(file=io.StringIO(), width=200) for _ in range(2)]
    monkeypatch.setattr(showing, "errors", outs[1])
    monkeypatch.setattr("saeserve.cli.output.console", outs[0])
    showing.show_job(job, as_json=False)
    return "".join(str(out.file.getvalue()) for out in outs if isinstance(out.file, io.StringIO))


OUTPUTS = [
    job_pb2.JobOutput(model=f"models/m-k{k}/versions/1", metrics={"fvu": 0.5 / k, "l0": k})
    for k in (2, 4)
]
LOST = job_pb2.MemberError(
    member="m-k8", error=job_pb2.JobError(code="DIVERGED_NAN", message="step 9", remedy="lower lr")
)


def test_a_job_shows_its_members_side_by_side_and_who_diverged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = job(outputs=OUTPUTS, member_errors=[LOST])
    assert seen.member_errors == {
        "m-k8": JobFailure("DIVERGED_NAN", "step 9", "", "lower lr", False, 0)
    }
    text = told(seen, monkeypatch)
    for part in ("models/m-k2/versions/1", "0.25", "0.125", "m-k8: step 9", "lower lr"):
        assert part in text
    assert "1 diverged" in text


def test_an_evaluation_is_a_table_of_figures_with_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: dict[str, Any] = {"n": 6120, "counted": "predicted tokens", "unit": "nats"}
    results = [
        job_pb2.EvaluationMetric(name="kl_nats", value=0.21, low=0.18, high=0.25, **counted),
        job_pb2.EvaluationMetric(name="kl_nats", value=0.5, stratum="positions 1-7", **counted),
    ]
    report = job_pb2.EvaluationReport(model="models/m/versions/1", results=results)
    text = told(job(outputs=[job_pb2.JobOutput(evaluation=report)]), monkeypatch)
    for part in ("figures of models/m/versions/1", "0.18 … 0.25", "6,120 predicted tokens"):
        assert part in text
    assert "kl_nats, positions 1-7" in text


def test_figures_of_older_releases_stay_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    report = job_pb2.EvaluationReport(metrics={"fvu": 0.25})
    text = told(
        job(outputs=[job_pb2.JobOutput(evaluation=report, metrics={"fvu": 0.25})]), monkeypatch
    )
    assert "figures of evaluation: fvu=0.25" in text


def test_many_models_are_counted_in_a_line() -> None:
    assert showing.made(job(outputs=OUTPUTS)) == "models/m-k2/versions/1, models/m-k4/versions/1"
    assert showing.made(job(outputs=OUTPUTS * 2)) == "4 models"
    assert showing.made(job(outputs=OUTPUTS * 2, member_errors=[LOST])) == "4 models; 1 diverged"


def event(step: int, member: str = "", **payload: Any) -> JobEvent:  # noqa: ANN401 - any payload
    return event_value(job_pb2.JobEvent(step=step, member=member, **payload))


def metrics(step: int, member: str, values: Mapping[str, float]) -> JobEvent:
    return event(step, member, metrics_reported=job_pb2.MetricsReported(metrics=values))


def bars(width: int, out: io.StringIO) -> Bars:
    return Bars(Console(file=out, width=width, force_terminal=True))


def test_watching_shows_a_bar_a_member_until_it_diverges() -> None:
    out = io.StringIO()
    with bars(100, out) as screen:
        screen.take(job(resolved_spec=parse_spec({"train": {"tokens": 640, "batch_size": 64}})))
        for member, l0 in (("m-k2", 2.0), ("m-k4", 4.0)):
            screen.show(metrics(5, member, {"l0": l0, "fvu": 0.5}))
        lines = {task.description: task for task in screen.tasks}
        assert list(lines) == ["train", "m-k2", "m-k4"]
        assert lines["m-k4"].fields["figures"] == "fvu=0.5 l0=4"
        assert {(task.completed, task.total) for task in screen.tasks} == {(5, 10)}
        warning = job_pb2.WarningRaised(code="MEMBER_DIVERGED", message="step 6: nan")
        screen.show(event(6, "m-k2", warning_raised=warning))
        assert [task.description for task in screen.tasks] == ["train", "m-k4"]
    assert "MEMBER_DIVERGED m-k2: step 6: nan" in Text.from_ansi(out.getvalue()).plain


def test_outputs_are_models(monkeypatch: pytest.MonkeyPatch) -> None:
    [only] = job(outputs=OUTPUTS[:1]).outputs
    assert only == JobOutput("models/m-k2/versions/1", "", None, "", {"fvu": 0.25, "l0": 2.0})
    assert "fvu=0.25 l0=2" in told(job(outputs=OUTPUTS[:1]), monkeypatch)
