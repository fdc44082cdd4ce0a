"""training.json, the parts' files, the page and its plots."""

from __future__ import annotations

import json
from pathlib import Path

from bench.training import page, plots
from bench.training.contestant import OURS
from bench.training.records import Part, save_rows
from bench.training.service_record import ServiceCost
from bench.training.sweep_record import SweepJobs
from tests.fakes.races import D_IN, MACHINE, contestant, field, limit, part, result

JOBS = SweepJobs(MACHINE, 8, 2048, (10.0,), (15.0,))
FIELDS = {
    "system",
    "architecture",
    "d_in",
    "d_sae",
    "k",
    "batch",
    "dtype",
    "tokens_per_second",
    "peak_bytes",
    "fraction_of_limit",
    "fvu",
}


def test_training_json_is_a_list_of_what_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    save_rows([part("topk", field()), part("auxk", field())], file)
    rows = json.loads(file.read_text())
    assert [row["system"] for row in rows] == ["saeserve", "saeserve", "saelens", "sparsify"]
    assert all(set(row) == FIELDS for row in rows)
    assert rows[1] == rows[1] | {"dtype": "bfloat16", "k": 8, "tokens_per_second": 256.0}
    assert isinstance(rows[0]["peak_bytes"], int)


def test_jumprelu_stands_there_at_its_sparse_state_without_k(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    parts = [part(name, field("jumprelu")) for name in ("jumprelu", "jumprelu_sparse")]
    save_rows(parts, file)
    rows = json.loads(file.read_text())
    assert len(rows) == 4
    assert {row["k"] for row in rows} == {None}


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    saved = part("topk", field())
    saved.save(tmp_path / "deep")
    assert Part.load(tmp_path / "deep" / "topk.json") == saved


def test_the_cost_of_the_service_is_read_as_it_was_written(tmp_path: Path) -> None:
    saved = ServiceCost(MACHINE, {}, 9.0, {"job": 10.0, "broker": 0.1}, 100, 90, {"fvu": 0.5})
    saved.save(tmp_path / "service.json")
    assert ServiceCost.load(tmp_path / "service.json") == saved
    assert "1.0% of the job's on top" in str(saved)


def test_the_time_of_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    saved = JOBS.with_round(20.0, 50.0)
    saved.save(tmp_path / "sweep_jobs.json")
    assert SweepJobs.load(tmp_path / "sweep_jobs.json") == saved
    assert saved.ratios == [1.5, 2.5]


def test_the_page_has_verdicts_and_a_table_for_every_race() -> None:
    wide = [limit(), result(contestant(OURS, dtype="bfloat16", d_sae=4096), (1.0, 1.0, 1.0))]
    peer = contestant("saelens", evaluate=False)
    waiting = [result(peer, (9.0, 3.0, 3.0)), result(peer, (9.0, 2.0, 2.0))]
    parts = [
        part("topk", field()),
        part("jumprelu", field("jumprelu")),
        part("width_4096", wide),
        part("environment_saelens", waiting),
    ]
    text = page.page(parts, None, JOBS, ["training_speed.png"])
    assert "| TopK with AuxK: saeserve bf16 / SAELens fp32 | 6.00 (5.00 to 7.00)× |" in text
    assert "(no AMX)" in text
    assert "## JumpReLU tanh, whole run" in text
    assert "| 4096 | saeserve | bfloat16 | 256 | 1 |" in text
    assert "| SAELens | 1.50 (1.50 to 1.50) |" in text
    assert "8 members of 2,048 tokens each: 10 s as a sweep, 15 s as jobs of their own" in text
    assert "![training_speed.png](training_speed.png)" in text


def test_a_table_is_markdown() -> None:
    assert page.table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_every_contestant_has_a_bar_and_a_curve(tmp_path: Path) -> None:
    wide = [limit(), result(contestant(OURS, dtype="bfloat16", d_sae=4096), (1.0, 2.0, 2.0))]
    races = {"topk": field(), "width_4096": wide}
    (panel,) = plots.speeds(races).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["saeserve fp32", "saeserve bf16", "SAELens fp32", "sparsify fp32"]
    assert plots.curves(races, "width", D_IN)["saeserve bf16"] == [(1000, 256.0), (4096, 128.0)]
    assert plots.save(races, D_IN, tmp_path) == ["training_speed.png", "training_scaling.png"]
    assert (tmp_path / "training_scaling.png").stat().st_size > 1000
