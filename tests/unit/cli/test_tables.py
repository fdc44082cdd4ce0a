"""Tables on wide and narrow terminals and in pipes: no word of them is ever cut."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from saeserve.cli import jobs, output
from saeserve.cli.describing import described
from saeserve.cli.tables import print_fields, print_table
from saeserve.client.jobs import parse_spec
from saeserve.client.values import Job, job_value
from saeserve.v1 import job_pb2

TRAIN = {
    "dataset": "my-acts", "source": "resid_post.15", "model": "my-sae", "topk": {"k": 32},
    "d_sae": 4096, "tokens": "2M",
}  # fmt: skip


def job(spec: dict[str, object], number: int = 1, **fields: Any) -> Job:  # noqa: ANN401 - any field
    sent = parse_spec(spec)
    return job_value(job_pb2.Job(id=f"j-{number:020}", spec=sent, resolved_spec=sent, **fields))


JOBS = [
    job(
        {"train": TRAIN},
        1,
        state=job_pb2.JOB_STATE_SUCCEEDED,
        outputs=[job_pb2.JobOutput(model="models/my-sae/versions/1")],
    ),
    job({"train": TRAIN | {"dataset": "other"}}, 2, state=job_pb2.JOB_STATE_QUEUED,
        waiting=job_pb2.Waiting(reason="no live worker of class gpu; place 1 of 3 in its queue")),
    job({"ingest": {"dataset": "my-acts"}}, 3, state=job_pb2.JOB_STATE_RUNNING,
        progress=job_pb2.Progress(step=950, total_steps=1000, unit="rows")),
]  # fmt: skip


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jobs ls` finds three jobs."""

    def found(**_: object) -> list[Job]:
        return JOBS

    class Client:
        def __enter__(self) -> SimpleNamespace:
            return SimpleNamespace(jobs=SimpleNamespace(list=found))

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr(jobs, "connect", Client)


def screen(monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool = True) -> io.StringIO:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, no_color=True, markup=False, emoji=False
    )
    monkeypatch.setattr(output, "console", console)
    return out


def text_of(out: io.StringIO) -> str:
    return Text.from_ansi(out.getvalue()).plain


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_a_list_of_jobs_never_loses_a_state_or_what_a_job_is(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = screen(monkeypatch, width)
    jobs.ls()
    text = text_of(out)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for seen in JOBS:
        assert seen.id in words
        assert seen.state in words
    for word in ("topk", "k=32", "my-acts", "other", "4,096,", "2M", "ingest", "gpu;"):
        assert word in words, word
    assert "models/my-sae/versions/1" in words
    assert "…" not in text


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("width", [80, 40, 1])
def test_in_a_pipe_a_job_is_a_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = screen(monkeypatch, width, terminal=False)
    jobs.ls()
    head, first, second, third = out.getvalue().splitlines()
    assert head.split() == ["id", "state", "job", "progress", "created"]
    what = "train topk k=32 on my-acts resid_post.15, d_sae 4,096, 2M tokens → my-sae"
    for part in (JOBS[0].id, "SUCCEEDED", what, "models/my-sae/versions/1"):
        assert part in first
    assert "no live worker of class gpu; place 1 of 3 in its queue" in second
    assert "950/1,000 rows (95%)" in third
    assert "\x1b" not in out.getvalue()


LONG = "x" * 90


@pytest.mark.parametrize("width", [120, 80, 40])
def test_words_longer_than_the_screen_are_whole_too(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = screen(monkeypatch, width)
    print_table(("a", "b", "c"), [("one", LONG, None), ("[two]", None, 3)], title="title")
    print_fields([("name", LONG), ("empty", ""), ("lines", "first\nsecond")])
    text = text_of(out)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("x") == 2 * len(LONG)
    assert "[two]" in text
    assert "empty" not in text


def test_fields_in_a_pipe_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = screen(monkeypatch, 20, terminal=False)
    print_fields([("name", LONG), ("b", "first\nsecond")])
    assert out.getvalue().splitlines() == [f"name  {LONG}", "b     first", "      second"]
    print_table(("a", "b"), [("one", "two\nlines")])
    assert "one  two; lines" in out.getvalue()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"train": {"dataset": "d", "model": "m", "gated": {}, "target_l0": 20, "tokens": 1500}},
         "train gated L0=20 on d, 1,500 tokens → m"),
        ({"train": {"dataset": "d", "model": "m", "topk": {}, "sweep": {"k": [8, 16]}}},
         "train topk × k=8,16 on d → m"),
        ({"train": {"dataset": "d", "model": "m", "source": "a", "target_source": "b"}},
         "train SAE on d a→b → m"),
        ({"train": {"dataset": "d", "model": "m", "preset": "batchtopk", "sources": ["a", "b"]}},
         "train batchtopk on d a+b → m"),
        ({"harvest": {"dataset": "d", "language_model": {"path": "lm:x"}, "max_tokens": 200000,
                      "sites": [{"hook": "resid_post", "layer": 3}]}},
         "harvest resid_post.3 of lm:x, 200k tokens → d"),
        ({"evaluate": {"model": "m", "dataset": "d", "loss_recovered": {}}},
         "evaluate m on d, loss recovered"),
        ({"import_model": {"model": "m", "path": "lib:x", "format": "saelens"}},
         "import saelens lib:x → m"),
        ({"export_model": {"model": "m@1", "format": "sparsify"}}, "export m@1 as sparsify"),
    ],
)  # fmt: skip
def test_what_a_job_is(spec: dict[str, object], words: str) -> None:
    assert described(job(spec)) == words


def test_whole_numbers_of_a_spec_are_numbers() -> None:
    train = job({"train": TRAIN | {"sweep": {"seed": [1, 2]}}}).resolved_spec["train"]
    assert (train["tokens"], train["topk"]["k"], train["sweep"]["seed"]) == (2_000_000, 32, [1, 2])
