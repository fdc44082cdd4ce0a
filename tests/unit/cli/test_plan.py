"""`saeserve plan`: what people and programs are shown, and the exit code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from saeserve.cli import plan as command
from saeserve.cli.__main__ import app
from saeserve.client.plans import Plan, Refusal

PLAN = Plan(
    parameters=1_000_000,
    memory_bytes=3 * 2**30,
    disk_bytes=44_000_000,
    steps=1000,
    notes=("worth knowing",),
    models=("sae",),
    memory={"parameter": 2**30, "gradient": 2**29},
    peaks={"backward": 3 * 2**30},
    machine_memory_bytes=4 * 2**30,
    tokens_per_second=12_345.6,
    seconds=7384.0,
    refusal=None,
)
REFUSED = dataclasses.replace(
    PLAN, refusal=Refusal("INSUFFICIENT_MEMORY", "needs more", "lower it", 512, None, None)
)


def run(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Exit code and everything printed."""

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        def planned(_spec: object) -> tuple[SimpleNamespace, Plan]:
            return SimpleNamespace(resolved_spec={"train": {}}), plan

        yield SimpleNamespace(jobs=SimpleNamespace(plan=planned))

    monkeypatch.setattr(command, "connect", connect)
    file = folder / "job.yaml"
    file.write_text("train: {dataset: acts, model: x, topk: {k: 3}, d_sae: 64, tokens: 20000}")
    result = CliRunner().invoke(app, ["plan", str(file), *words])
    return result.exit_code, result.output


def test_people_see_sizes_speed_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = run(PLAN, tmp_path, monkeypatch)
    assert code == 0
    for part in (
        "1,000,000",
        "3.0 GiB at most of 4.0 GiB",
        "12,346 tokens/s",
        "2h03m",
        "worth knowing",
        "512.0 MiB",
        "backward",
    ):
        assert part in shown


def test_programs_get_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = run(PLAN, tmp_path, monkeypatch, "--json")
    plan = json.loads(shown)["plan"]
    assert (code, plan["memory"]["parameter"], plan["peaks"]) == (0, 2**30, {"backward": 3 * 2**30})
    assert (plan["tokens_per_second"], plan["refusal"]) == (12_345.6, None)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_job_that_would_be_refused_is_shown_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    code, shown = run(REFUSED, tmp_path, monkeypatch, *words)
    assert code == 1
    assert "INSUFFICIENT_MEMORY" in shown
    assert "needs more" in shown


def test_what_is_not_known_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = dataclasses.replace(
        PLAN, machine_memory_bytes=None, tokens_per_second=None, seconds=None
    )
    _, shown = run(unknown, tmp_path, monkeypatch)
    assert "3.0 GiB at most" in shown
    assert "tokens/s" not in shown
    assert "time" not in shown
