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

from saeserve.cli import plan, sending
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


def run(shown: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Exit code and everything printed."""

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        def planned(_spec: object, **_flags: object) -> tuple[SimpleNamespace, Plan]:
            return SimpleNamespace(resolved_spec={"train": {}}), shown

        yield SimpleNamespace(jobs=SimpleNamespace(plan=planned))

    monkeypatch.setattr(plan, "connect", connect)
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


FILED = {"dataset": "acts", "seed": 1}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("job.yaml",), FILED),
        (("-f", "job.yaml", "--set", "tokens=200k"), FILED | {"tokens": "200k"}),
        (("train", "-f", "job.yaml", "--tokens", "2M"), FILED | {"tokens": "2M"}),
        (("train", "--topk", "32", "--d-sae", "4k"), {"topk": {"k": "32"}, "d_sae": "4k"}),
        (("train", "--batchtopk", "32"), {"batchtopk": {"k": "32"}}),
        (("train", "--matryoshka", "8", "--set", "matryoshka.widths=[64]"),
         {"matryoshka": {"k": "8", "widths": [64]}}),
        (("train", "--relu", "--target-l0", "20"), {"relu": {}, "target_l0": "20"}),
        (("train", "--gated", "--log-every-steps", "5"), {"gated": {}, "log_every_steps": "5"}),
        (("train", "--jumprelu", "--set", "jumprelu.penalty=l0"), {"jumprelu": {"penalty": "l0"}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["plan", "submit"])
def test_plan_and_submit_take_the_same_flags(
    command: str,
    words: tuple[str, ...],
    expected: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("train: {dataset: acts, seed: 1}")
    if command == "submit" and words[0] != "train":
        words = ("train", "-f", "job.yaml", *words[words.index("job.yaml") + 1 :])
    seen: list[dict[str, object]] = []

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        def planned(spec: dict[str, object], **_: object) -> tuple[SimpleNamespace, Plan]:
            seen.append(spec)
            return SimpleNamespace(resolved_spec={}), PLAN

        def submitted(spec: dict[str, object], **_: object) -> SimpleNamespace:
            seen.append(spec)
            return SimpleNamespace(id="j-1", state="QUEUED", warnings=(), field_sources=())

        yield SimpleNamespace(jobs=SimpleNamespace(plan=planned, submit=submitted))

    monkeypatch.setattr(plan, "connect", connect)
    monkeypatch.setattr(sending, "connect", connect)
    result = CliRunner().invoke(app, [command, *words])
    assert result.exit_code == 0, result.output
    assert seen == [{"train": expected}]


def test_labels_owner_and_attempts_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        def submitted(_spec: object, **flags: object) -> SimpleNamespace:
            seen.append(flags)
            return SimpleNamespace(id="j-1", state="QUEUED", warnings=(), field_sources=())

        yield SimpleNamespace(jobs=SimpleNamespace(submit=submitted))

    monkeypatch.setattr(sending, "connect", connect)
    words = "submit ingest --dataset d --label team=vision --label run=3 --owner me"
    CliRunner().invoke(app, [*words.split(), "--max-attempts", "5"])
    [flags] = seen
    assert (flags["labels"], flags["owner"]) == ({"team": "vision", "run": "3"}, "me")
    assert flags["max_attempts"] == 5
