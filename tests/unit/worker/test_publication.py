"""Nothing is published, discarded or seen but by a result, wherever an attempt is overtaken."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tests.fakes.durable import Durable
from tests.fakes.workshop import Workshop

from saeserve.core.data.disk import sha256_of
from saeserve.core.export.format import load_model
from saeserve.core.peers.registry import export_model
from saeserve.jobs.errors import JobFinished
from saeserve.jobs.record import Result
from saeserve.jobs.states import JobState
from saeserve.registry.dataset import DatasetState, UploadHeader
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.worker import job_process
from saeserve.worker.order import ExitCode

ROWS, FILES, SHARD = 96, 3, 64
ENDS = [JobState.CANCELLED, JobState.FAILED]


def upload(shop: Workshop, name: str = "rows", bad_row: int | None = None) -> None:
    """Several files, so that a superseded attempt finds one of them gone."""
    rng = np.random.default_rng(0)
    for number in range(FILES):
        rows = rng.standard_normal((ROWS, 8)).astype(np.float16)
        if bad_row is not None and number == FILES - 1:
            rows[bad_row] = np.nan
        data = safetensors.numpy.save({"activations": rows})
        sha256 = hashlib.sha256(data).hexdigest()
        header = UploadHeader(
            dataset=name, file_name=f"f{number}.safetensors", size_bytes=len(data), sha256=sha256
        )
        with shop.bench.datasets.begin_upload(header) as writer:
            writer.add(0, data, zlib.crc32(data))
            writer.finish()


INGEST = ("ingest", {"dataset": "rows", "shard_rows": SHARD})


def ingest(shop: Workshop, job: str = "j-1") -> ExitCode:
    return shop.submit(job, *INGEST)


def whole(shop: Workshop, name: str = "rows") -> bool:
    """The data set is READY and every byte of it is there."""
    found = DatasetRegistry.get(shop.bench.datasets, name)
    assert found.state is DatasetState.READY
    assert found.manifest is not None
    assert found.manifest.rows == ROWS * FILES
    for shard in found.manifest.shards:
        assert sha256_of(found.folder / shard.file) == shard.sha256
    assert sorted(path.name for path in (found.folder / "shards").iterdir()) == [
        *(Path(shard.file).name for shard in found.manifest.shards),
        "sums.safetensors",
    ]
    return True


def end(shop: Workshop, state: JobState, job: str = "j-1") -> None:
    """Somebody else commits how the job ended: a user's cancel, or the reconciler."""
    shop.bench.ledger.finish(Result(job=job, epoch=1, state=state, time=0.0))
    shop.bench.settlement.settled(job)


Job = tuple[str, dict[str, Any]]


def run_disturbed(
    shop: Workshop,
    job: Job,
    act: Callable[[], object] = lambda: None,
    at: int = -1,
    within: tuple[str, ...] = ("",),
) -> tuple[ExitCode, list[str]]:
    """Submit `job` as j-1 and run its first attempt; `act` comes before its durable operation
    number `at` on a path that holds one of `within`. How it ended, and those operations."""
    kind, spec = job
    shop.bench.submit("j-1", kind=kind, resolved_spec={kind: spec})
    order = shop.claim("j-1")
    durable = Durable(shop.bench.ledger.store.root, act, at, within)
    with pytest.MonkeyPatch.context() as patch:
        durable.install(patch)
        code = job_process.run(order, shop.stop)
    assert len(durable.seen) > at
    return code, durable.seen


def reset(shop: Workshop) -> None:
    """An empty store."""
    for name in ("jobs", "datasets", "models", "exports", "requests"):
        shop.bench.ledger.store.remove(name)
    shop.bench.index.forget()


def test_a_superseded_ingest_harms_nothing_wherever_it_was_paused(shop: Workshop) -> None:
    upload(shop)
    _, seen = run_disturbed(shop, INGEST)
    assert whole(shop)
    ended: list[ExitCode] = []

    def successor() -> None:
        with contextlib.suppress(JobFinished):
            ended.append(shop.run("j-1"))

    for at in range(len(seen)):
        reset(shop)
        upload(shop)
        code, _ = run_disturbed(shop, INGEST, successor, at)
        assert {code, *ended} <= {ExitCode.FENCED, ExitCode.FINISHED}, seen[at]
        assert whole(shop), seen[at]
        result = shop.bench.ledger.result("j-1")
        assert result is not None
        assert result.state is JobState.SUCCEEDED
        work = shop.bench.datasets.get("rows").folder / "work"
        assert not [path for path in work.rglob("*") if path.is_file()], seen[at]


def test_a_superseded_attempt_that_finds_bad_rows_discards_only_its_own(shop: Workshop) -> None:
    upload(shop, bad_row=3)
    folder = shop.bench.datasets.get("rows").folder
    shards: list[int] = []

    def successor() -> None:
        shop.bench.ledger.claim("j-1", "other", 0.0)
        begun = shop.bench.datasets.begin("rows", "j-1", 2)
        shards.append(len(list((begun / "shards").iterdir())))

    code, _ = run_disturbed(shop, INGEST, successor, 0, ("shards/00002",))
    assert code is ExitCode.FENCED
    assert len(list((folder / "work/j-1/2/shards").iterdir())) == shards[0] == 2
    assert len(list((folder / "incoming").glob("*.safetensors"))) == FILES
    assert shop.bench.datasets.get("rows").state is DatasetState.PENDING


def test_uploads_stay_until_the_result_is_committed(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(shop)

    def lost(*_: object) -> Result:
        raise OSError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr("saeserve.jobs.ledger.Ledger.finish", lost)
        assert ingest(shop) is ExitCode.FAILED
    found = shop.bench.datasets.get("rows")
    assert found.state is DatasetState.PENDING
    assert len(found.files) == FILES
    assert shop.run("j-1") is ExitCode.FINISHED
    assert whole(shop)
    assert not (found.folder / "incoming").exists()


def test_a_result_that_nobody_applied_is_seen_all_the_same(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job process dies between its result and the publication."""

    def dies(*_: object) -> None:
        return None

    upload(shop)
    shop.planted()
    with monkeypatch.context() as patch:
        patch.setattr("saeserve.registry.publication.Publication.apply", dies)
        assert ingest(shop) is ExitCode.FINISHED
        assert shop.train("j-2") is ExitCode.FINISHED
    assert whole(shop)
    assert shop.model("m").job == "j-2"
    shop.bench.settlement.settled("j-2")
    assert (shop.model("m").folder / "published").exists()


@pytest.mark.parametrize("state", ENDS)
def test_a_data_set_is_ready_only_by_its_result(shop: Workshop, state: JobState) -> None:
    upload(shop)
    _, seen = run_disturbed(shop, INGEST)
    for at in range(len(seen)):
        reset(shop)
        upload(shop)
        code, _ = run_disturbed(shop, INGEST, lambda: end(shop, state), at)
        result = shop.bench.ledger.result("j-1")
        assert result is not None
        found = shop.bench.datasets.get("rows")
        if result.state is JobState.SUCCEEDED:
            assert code is ExitCode.FINISHED
            assert whole(shop)
            continue
        assert code is ExitCode.FENCED, seen[at]
        failed = state is JobState.FAILED
        assert found.state is (DatasetState.FAILED if failed else DatasetState.PENDING), seen[at]
        assert len(list((found.folder / "incoming").glob("*.safetensors"))) == FILES
        if not failed and at % 5 == 0:
            assert ingest(shop, "j-2") is ExitCode.FINISHED
            assert whole(shop)


def visible(shop: Workshop) -> list[str]:
    """What users see that jobs made, as fresh readers of the store see it."""
    store = shop.bench.ledger.store
    models = [version.resource for version in ModelRegistry(store).list()]
    return models + [f"exports/{name}" for name in store.names("exports")]


PUBLISHING = ("/models/", "/exports/", "/exported", "result.json")
SHORT: dict[str, Any] = {"tokens": 64 * 4, "checkpoint_every_steps": 100}


def models(shop: Workshop) -> dict[str, Job]:
    return {
        "train": ("train", shop.train_spec(**SHORT)),
        "sweep": ("train", shop.train_spec(**SHORT, topk={}, sweep={"k": [2, 4]})),
        "import": ("import_model", {"model": "m", "path": "r:foreign", "format": "saelens"}),
    }


@pytest.mark.parametrize("kind", ["train", "sweep", "import"])
@pytest.mark.parametrize("state", ENDS)
def test_models_are_seen_only_by_their_result(
    shop: Workshop, kind: str, state: JobState, tmp_path: Path
) -> None:
    shop.roots = {"r": tmp_path / "root"}
    foreign(shop, tmp_path / "root" / "foreign")
    job = models(shop)[kind]
    prepare(shop)
    _, seen = run_disturbed(shop, job, within=PUBLISHING)
    made = visible(shop)
    assert len(made) == (2 if kind == "sweep" else 1)
    for at, operation in enumerate(seen):
        prepare(shop)
        code, _ = run_disturbed(shop, job, lambda: end(shop, state), at, PUBLISHING)
        result = shop.bench.ledger.result("j-1")
        assert result is not None
        ended = result.state is state
        assert code is (ExitCode.FENCED if ended else ExitCode.FINISHED), operation
        assert visible(shop) == ([] if ended else made), operation


def prepare(shop: Workshop) -> None:
    reset(shop)
    shop.planted()


def foreign(shop: Workshop, folder: Path) -> None:
    """Another library's files, to import."""
    shop.planted()
    shop.train("j-0", **SHORT)
    folder.parent.mkdir(parents=True)
    export_model(load_model(shop.model("m").folder), "saelens", folder)


@pytest.mark.parametrize("state", ENDS)
def test_an_export_is_seen_only_by_its_result(shop: Workshop, state: JobState) -> None:
    shop.planted()
    shop.train("j-0", **SHORT)
    job = ("export_model", {"model": "m", "format": "saelens"})
    store = shop.bench.ledger.store
    _, seen = run_disturbed(shop, job, within=PUBLISHING)
    assert store.names("exports/m/1/saelens")
    for at, operation in enumerate(seen):
        store.remove("jobs/j-1")
        store.remove("exports")
        run_disturbed(shop, job, lambda: end(shop, state), at, PUBLISHING)
        result = shop.bench.ledger.result("j-1")
        assert result is not None
        there = store.exists("exports/m/1/saelens")
        assert there == (result.state is JobState.SUCCEEDED), operation


def test_a_job_that_was_removed_leaves_its_models(shop: Workshop) -> None:
    shop.planted()
    shop.train("j-1", **SHORT)
    shop.bench.ledger.store.remove("jobs/j-1")
    assert visible(shop) == ["models/m/versions/1"]


def test_what_a_cancelled_job_had_published_goes_with_its_end(shop: Workshop) -> None:
    shop.planted()
    folder: Any = shop.bench.ledger.store.path("models/m/versions/1")
    job = models(shop)["train"]
    code, _ = run_disturbed(shop, job, lambda: end(shop, JobState.CANCELLED), 0, ("result.json",))
    assert code is ExitCode.FENCED
    shop.bench.settlement.settled("j-1")
    assert sorted(path.name for path in folder.iterdir()) == ["claim.json", "deleted.json"]
    shop.bench.ledger.store.remove("jobs/j-1")
    assert visible(shop) == []
    assert shop.train("j-2", **SHORT) is ExitCode.FINISHED
    assert visible(shop) == ["models/m/versions/2"]
