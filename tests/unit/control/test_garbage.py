"""What is swept: leftovers of attempts and temporaries, and never what somebody made."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from tests.fakes.control import Bench
from tests.fakes.registry import write_export

from saeserve.control.handlers.garbage import Garbage, Retention, Swept, sweep_and_log
from saeserve.control.housekeeping import Housekeeper
from saeserve.jobs.record import Lease
from saeserve.jobs.states import JobState
from saeserve.registry.bundles import bundle_key
from saeserve.registry.models import ModelRegistry

DAY = 86_400.0
RETENTION = Retention(checkpoint_s=7 * DAY, safe_s=DAY)


@dataclasses.dataclass
class Yard:
    """A store with a job of three checkpoints, and a clock that is `ahead` of the real one."""

    bench: Bench
    job: str
    lease: Lease
    ahead: float = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    @property
    def garbage(self) -> Garbage:
        return Garbage(self.bench.store, RETENTION, self.now)

    def sweep(self, *, execute: bool = True, checkpoint_s: float | None = None) -> list[Swept]:
        return list(self.garbage.sweep(execute=execute, checkpoint_s=checkpoint_s))

    def can_go(self) -> list[str]:
        return [s.leftover.key for s in self.sweep(execute=False) if not s.leftover.kept]

    @property
    def steps(self) -> list[str]:
        return self.bench.store.names(f"jobs/{self.job}/attempts/1/checkpoints")


def write(folder: Path) -> None:
    (folder / "state").write_bytes(b"x" * 100)


@pytest.fixture
def yard(bench: Bench) -> Yard:
    bench.ready()
    job = bench.train().id
    yard = Yard(bench, job, bench.start(job))
    for step in (10, 20, 30):
        bench.ledger.checkpoint_sink(yard.lease).commit(step, write)
    assert yard.steps == ["20", "30"]
    export = bench.store.path(f"jobs/{job}/attempts/1/export")
    export.mkdir()
    write(export)
    return yard


def test_nothing_of_a_running_attempt_goes(yard: Yard) -> None:
    yard.ahead = 365 * DAY
    assert yard.sweep() == []
    assert len(yard.steps) == 2


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_has_ended_keeps_its_last_checkpoint_for_a_week(
    yard: Yard, state: JobState
) -> None:
    yard.bench.end(yard.job, state)
    assert [s.leftover.key for s in yard.sweep() if s.removed] == [
        f"jobs/{yard.job}/attempts/1/checkpoints/20"
    ]
    assert yard.steps == ["30"]
    yard.ahead = 7 * DAY - 60
    [last] = [s.leftover for s in yard.sweep() if "checkpoint" in s.leftover.key]
    assert last.kept.startswith("it is kept for 0.0 more hours")
    assert last.bytes > 100
    yard.ahead = 7 * DAY + 60
    yard.sweep()
    assert yard.steps == []


def test_a_wrong_clock_of_a_worker_does_not_shorten_the_week(yard: Yard) -> None:
    """`end` commits a result of 1970."""
    yard.bench.end(yard.job, JobState.SUCCEEDED)
    yard.sweep()
    assert yard.steps == ["30"]


def test_the_age_of_checkpoints_can_be_given(yard: Yard) -> None:
    yard.bench.end(yard.job, JobState.SUCCEEDED)
    yard.sweep(checkpoint_s=0.0)
    assert yard.steps == []


def test_an_export_that_a_killed_attempt_left_goes_after_a_day(yard: Yard) -> None:
    export = f"jobs/{yard.job}/attempts/1/export"
    yard.bench.end(yard.job, JobState.FAILED)
    assert export not in yard.can_go()
    yard.ahead = DAY + 60
    assert export in yard.can_go()
    yard.sweep()
    assert not yard.bench.store.exists(export)


def test_the_export_of_a_superseded_attempt_goes_too(yard: Yard) -> None:
    yard.bench.ledger.claim(yard.job, "another", 1.0)
    yard.ahead = DAY + 60
    assert yard.can_go() == [f"jobs/{yard.job}/attempts/1/export"]


def test_a_dry_run_removes_nothing_and_hides_nothing(yard: Yard) -> None:
    yard.bench.end(yard.job, JobState.SUCCEEDED)
    temporary = yard.bench.store.path("jobs/.x.json.0.tmp")
    temporary.write_bytes(b"1234")
    before = sorted(yard.bench.store.root.rglob("*"))
    listed = {s.leftover.key: s for s in yard.sweep(execute=False)}
    assert sorted(yard.bench.store.root.rglob("*")) == before
    assert not any(s.removed for s in listed.values())
    assert len(listed) == 4
    assert listed["jobs/.x.json.0.tmp"].leftover.bytes == 4
    assert all(s.leftover.why for s in listed.values())


def test_what_people_made_is_never_among_it(yard: Yard) -> None:
    bench = yard.bench
    bench.publish()
    bench.models.set_alias("sae", "prod", 1)
    bench.datasets.create("pending")
    bench.end(yard.job, JobState.SUCCEEDED)
    yard.ahead = 1000 * DAY
    yard.sweep(checkpoint_s=0.0)
    assert bench.models.resolve("sae@prod").version == 1
    assert bench.datasets.names() == ["acts", "pending"]
    assert bench.datasets.get("acts").manifest is not None
    assert bench.ledger.record(yard.job).state is JobState.SUCCEEDED


def test_what_cannot_be_removed_is_told(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.bench.end(yard.job, JobState.SUCCEEDED)

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    [failed] = [s for s in yard.sweep() if s.error]
    assert (failed.removed, failed.error) == (False, "Permission denied")


def test_a_damaged_job_is_kept_and_told_and_the_others_are_swept(yard: Yard) -> None:
    bench = yard.bench
    bench.end(yard.job, JobState.SUCCEEDED)
    other = bench.train().id
    bench.store.path(f"jobs/{other}/result.json").write_bytes(b"{")
    told = {s.leftover.key: s.leftover.kept for s in yard.sweep()}
    assert "result.json" in told[f"jobs/{other}"]
    assert yard.steps == ["30"]


def test_the_housekeeper_sweeps_only_where_it_leads(yard: Yard) -> None:
    yard.bench.end(yard.job, JobState.SUCCEEDED)
    swept = threading.Event()

    def sweep() -> None:
        sweep_and_log(yard.garbage)
        swept.set()

    housekeeper = Housekeeper(sweep, seconds=0.01)
    housekeeper.start()
    assert not swept.wait(0.2)
    assert len(yard.steps) == 2
    housekeeper.lead()
    assert swept.wait(30)
    housekeeper.close()
    assert yard.steps == ["30"]


def test_a_failed_sweep_is_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    done = threading.Event()

    def sweep() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the store is away")
        done.set()

    housekeeper = Housekeeper(sweep, seconds=0.01)
    housekeeper.start()
    while not done.wait(0.02):
        housekeeper.lead()
    housekeeper.close()
    assert "a sweep of the store failed" in caplog.text


def test_figures_of_a_data_set_that_is_gone_can_go(yard: Yard) -> None:
    for dataset in ("acts", "gone"):
        yard.bench.store.put_if_absent(f"evaluations/{dataset}/x.json", b"{}")
    assert "evaluations/gone" in yard.can_go()
    yard.sweep()
    assert yard.bench.store.names("evaluations") == ["acts"]


def test_bundles_of_a_deleted_version_go_and_others_stay(yard: Yard, tmp_path: Path) -> None:
    store, models = yard.bench.store, ModelRegistry(yard.bench.store)
    for index in range(2):
        models.publish("sae", "j-made", index, write_export(tmp_path / f"export-{index}", "x"))
    models.delete_version("sae@1", lambda _: [])
    for version in (1, 2):
        folder = store.path(bundle_key("sae", version, "j-late"))
        folder.mkdir(parents=True)
        write(folder)
    assert "features/sae/1" in yard.can_go()
    swept = [each for each in yard.sweep() if each.leftover.key.startswith("features")]
    assert [(each.leftover.key, each.removed) for each in swept] == [("features/sae/1", True)]
    assert store.exists(bundle_key("sae", 2, "j-late"))
