"""What a user does from the command line and the SDK, and what they are told when they err."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.real_stack import RealStack

from saeserve.cli.stack import child_environment
from saeserve.client import Client, ClientError
from saeserve.client.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from saeserve.core.export.format import load_model
from saeserve.core.specs import fitted
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec

D, FEATURES = 32, 64


class Journey:
    """A stack with inference, and the command line pointed at it."""

    def __init__(self, stack: RealStack) -> None:
        self.stack = stack
        self.client = stack.client
        self.environment = child_environment(
            {
                "SAESERVE_CONTROL_ADDRESS": stack.control_address,
                "SAESERVE_INFERENCE_ADDRESS": stack.inference_address,
                "SAESERVE_STORE": str(stack.folder / "store"),
                "SAESERVE_RUN": str(stack.folder / "run"),
                "COLUMNS": "200",
            }
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`saeserve words…`."""
        return subprocess.run(
            [sys.executable, "-m", "saeserve.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def json(self, *words: str) -> Any:  # noqa: ANN401 - whatever the command prints
        """The JSON that a command prints; it must succeed."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Sums of three of 64 directions, off the origin."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((FEATURES, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    picked = rng.integers(0, FEATURES, (count, 3))
    sizes = rng.uniform(1, 3, (count, 3, 1))
    return ((directions[picked] * sizes).sum(1) + 0.3).astype(np.float32)


@pytest.fixture(scope="module")
def journey(stack: RealStack) -> Journey:
    """An imported data set `acts` and a trained model `sae`, made by the command line."""
    stack.inference()
    made = Journey(stack)
    file = stack.folder / "acts.npy"
    np.save(file, rows(6000))
    imported = made.run("datasets", "import", "acts", str(file))
    assert imported.returncode == 0, imported.stderr
    trained = made.run(
        *("submit", "train", "--dataset", "acts", "--model", "sae", "--topk", "3"),
        *("--d-sae", "128", "--tokens", "40k", "--batch-size", "256", "--watch"),
    )
    assert trained.returncode == 0, trained.stderr
    return made


def test_what_was_made_is_listed(journey: Journey) -> None:
    [dataset] = journey.json("datasets", "ls")
    assert (dataset["name"], dataset["state"], dataset["rows"]) == ("acts", "READY", 6000)
    [model] = journey.json("models", "ls")
    assert model["resource"] == "models/sae/versions/1"
    assert 0 < model["metrics"]["fvu"] < 1
    kinds = [job["kind"] for job in journey.json("jobs", "ls")]
    assert kinds == ["train", "ingest"]
    assert "models/sae/versions/1" in journey.run("jobs", "ls").stdout


def test_a_finished_job_shows_its_last_step(journey: Journey) -> None:
    job = journey.json("jobs", "ls", "--kind", "train")[0]
    assert job["progress"]["step"] == job["progress"]["total_steps"] == 40_000 // 256


def test_an_upload_is_gone_once_it_is_adopted(journey: Journey) -> None:
    assert not (journey.stack.folder / "store/datasets/acts/incoming").exists()


def test_doctor_finds_everything_well(journey: Journey) -> None:
    found = {each["subject"]: each["verdict"] for each in journey.json("doctor")}
    assert found["broker"] == found["control"] == found["inference"] == "ok"


def test_encode_equals_the_export_in_process(journey: Journey) -> None:
    x = rows(500, seed=3)
    served = journey.client.encode("sae", x)
    model = load_model(journey.stack.folder / "store/models/sae/versions/1")
    here = model.encode_dense(torch.tensor(x)).numpy()
    largest = np.abs(here).max(axis=1, keepdims=True)
    assert np.all(np.abs(served.to_dense() - here) <= 1e-5 * largest)
    assert served.l0 == 3.0
    assert served.model == "models/sae/versions/1"


def test_large_batches_are_split_and_come_back_in_order(journey: Journey) -> None:
    x = rows(20_000, seed=4).reshape(2, 10_000, D)
    whole = journey.client.encode("sae", x, wire="f16")
    assert whole.shape == (2, 10_000, 128)
    part = journey.client.encode("sae", x[1, -5:], wire="f16")
    # Processors sum products of other shapes in other orders.
    assert np.allclose(whole.to_dense()[1, -5:], part.to_dense(), rtol=1e-5, atol=1e-5)


def test_decode_and_reconstruct_agree(journey: Journey) -> None:
    x = rows(64, seed=5)
    decoded = journey.client.decode("sae", journey.client.encode("sae", x))
    assert np.allclose(decoded, journey.client.reconstruct("sae", x), atol=1e-5)
    assert np.square(x - decoded).sum() < np.square(x - x.mean(0)).sum()


BEYOND = [3, 9000, 19_999]


def massive() -> np.ndarray:
    """20,000 rows, a hundred times as long as the others where BEYOND says."""
    x = rows(20_000, seed=6)
    x[BEYOND] *= 100
    return x


def test_rows_beyond_the_norm_bound_are_named_by_encode_and_reconstruct(journey: Journey) -> None:
    x = massive().reshape(2, 10_000, D)
    features = journey.client.encode("sae", x)
    assert features.beyond_norm_bound.tolist() == BEYOND
    made = journey.client.reconstruct("sae", x)
    assert (made.shape, made.model) == (x.shape, "models/sae/versions/1")
    assert made.beyond_norm_bound is not None
    assert made.beyond_norm_bound.tolist() == BEYOND
    assert made[0].beyond_norm_bound is None
    usual = journey.client.reconstruct("sae", rows(100)).beyond_norm_bound
    assert usual is not None
    assert usual.tolist() == []


def test_the_command_line_names_rows_beyond_the_norm_bound(
    journey: Journey, tmp_path: Path
) -> None:
    file, out = tmp_path / "massive.npy", str(tmp_path / "out")
    np.save(file, massive())
    line = "3 rows have a larger norm than the model was trained on: 3, 9000, 19999"
    assert line in journey.run("encode", "sae", str(file)).stdout
    assert line in journey.run("reconstruct", "sae", str(file), "--out", f"{out}.npy").stdout
    shown = journey.json("reconstruct", "sae", str(file), "--out", f"{out}.npy")
    assert (
        shown["beyond_norm_bound"]
        == journey.json("encode", "sae", str(file))["beyond_norm_bound"]
        == BEYOND
    )


def test_the_command_line_decodes_whatever_encode_writes(journey: Journey, tmp_path: Path) -> None:
    file, out = tmp_path / "rows.npy", tmp_path / "y.npy"
    x = rows(6).reshape(2, 3, D)
    np.save(file, x)
    features = journey.client.encode("sae", x)
    expected = journey.client.decode("sae", features)
    saved, printed, dense = (tmp_path / name for name in ("f.bin", "f.json", "dense.npy"))
    journey.run("encode", "sae", str(file), "--out", str(saved))
    printed.write_text(journey.run("encode", "sae", str(file), "--json").stdout)
    np.save(dense, features.to_dense())
    for given in (saved, printed, dense):
        done = journey.run("decode", "sae", str(given), "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.load(out), expected)
        out.unlink()
    printed.write_text(printed.read_text().replace("models/sae/", "models/other/"))
    refused = journey.run("decode", "sae", str(printed), "--out", str(out))
    assert refused.returncode == 1
    assert "models/other/versions/1" in refused.stderr


def test_a_model_that_was_trained_on_all_rows_has_no_norm_bound(journey: Journey) -> None:
    trained = {**TRAIN, "model": "whole", "preprocess": {"norm_cut": 0}}
    assert journey.client.jobs.wait(journey.client.jobs.submit({"train": trained}).id).done
    assert journey.client.encode("whole", massive()).beyond_norm_bound.tolist() == []


def test_an_alias_moves_at_once(journey: Journey) -> None:
    assert journey.run("models", "alias", "sae", "prod").returncode == 0
    assert journey.client.encode("sae@prod", rows(1)).model == "models/sae/versions/1"
    with pytest.raises(PreconditionError, match="alias prod"):
        journey.client.models.delete("sae@1")


def test_plan_records_nothing(journey: Journey, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("train: {dataset: acts, model: x, jumprelu: {}, d_sae: 256, tokens: 51200}")
    before = len(journey.json("jobs", "ls"))
    planned = journey.json("plan", str(file))
    assert planned["plan"]["steps"] == 400
    assert planned["plan"]["parameters"] == 256 * (2 * D + 2) + D
    rate = fitted.rate_of(JumpReluSpec.learning_rate, D, 256, 400)
    assert planned["resolved_spec"]["train"]["optimizer"]["lr"] == pytest.approx(rate)
    assert len(journey.json("jobs", "ls")) == before


TRAIN: dict[str, Any] = {
    "dataset": "acts",
    "model": "m",
    "topk": {"k": 3},
    "d_sae": 64,
    "tokens": 20_000,
}
BAD_JOBS: list[tuple[Mapping[str, Any], type[ClientError], str]] = [
    ({"topk": {"k": 65}}, InvalidArgumentError, "train.topk.k"),
    ({"topk": None}, InvalidArgumentError, "train"),
    ({"tokens": 10, "batch_size": 11}, InvalidArgumentError, "train.tokens"),
    ({"d_sae": 0}, InvalidArgumentError, "train.d_sae"),
    ({"model": "../up"}, InvalidArgumentError, "train.model"),
    ({"dataset": "none"}, NotFoundError, "train.dataset"),
    ({"source": "resid_post.3"}, InvalidArgumentError, "train.source"),
    ({"preprocess": {"centre": "median"}}, InvalidArgumentError, "train.preprocess.centre"),
    ({"optimizer": {"lr": -1}}, InvalidArgumentError, "train.optimizer.lr"),
]


@pytest.mark.parametrize(("change", "error", "field"), BAD_JOBS, ids=[b[2] for b in BAD_JOBS])
def test_a_bad_job_is_refused_by_field(
    journey: Journey, change: Mapping[str, Any], error: type[ClientError], field: str
) -> None:
    merged = {name: value for name, value in {**TRAIN, **change}.items() if value is not None}
    before = len(list(journey.client.jobs.list()))
    with pytest.raises(error) as caught:
        journey.client.jobs.submit({"train": merged})
    assert caught.value.field == f"spec.{field}"
    assert caught.value.remedy
    assert len(list(journey.client.jobs.list())) == before


def test_an_unknown_architecture_is_named(journey: Journey) -> None:
    with pytest.raises(InvalidArgumentError, match="perceptron"):
        journey.client.jobs.submit({"train": {**TRAIN, "perceptron": {}}})


def test_a_request_id_stands_for_one_body(journey: Journey) -> None:
    spec = {"train": {**TRAIN, "model": "once"}}
    first = journey.client.jobs.submit(spec, request_id="r1")
    assert journey.client.jobs.submit(spec, request_id="r1").id == first.id
    with pytest.raises(AlreadyExistsError, match="r1"):
        journey.client.jobs.submit({"train": {**TRAIN, "model": "twice"}}, request_id="r1")
    assert journey.client.jobs.wait(first.id).state == "SUCCEEDED"


def test_encode_refusals_name_row_and_width(journey: Journey) -> None:
    with pytest.raises(InvalidArgumentError, match="32"):
        journey.client.encode("sae", np.zeros((2, 31), np.float32))
    bad = rows(3)
    bad[2, 7] = np.nan
    with pytest.raises(InvalidArgumentError, match=r"row 2.*column 7"):
        journey.client.encode("sae", bad)
    with pytest.raises(NotFoundError, match="no model nothing"):
        journey.client.encode("nothing", rows(1))


def _save_nan(path: Path) -> None:
    bad = rows(300)
    bad[123, 4] = np.inf
    np.save(path, bad)


def _save_truncated(path: Path) -> None:
    np.save(path, rows(300))
    path.write_bytes(path.read_bytes()[:-100])


BAD_FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("nan", _save_nan, "123"),
    ("wide", lambda path: np.save(path, rows(10).astype(np.float64) * 1e39), "beyond float32"),
]
UNSENT: list[tuple[str, Callable[[Path], None], str]] = [
    ("short", _save_truncated, "bytes"),
    ("codes", lambda path: np.save(path, rows(10).astype(np.int64)), "int64"),
    ("flat", lambda path: np.save(path, rows(10)[0]), "a matrix [rows, d] is needed"),
    ("void", lambda path: np.save(path, rows(0)), "shape [0, "),
]


@pytest.mark.parametrize(("name", "save", "told"), BAD_FILES, ids=[b[0] for b in BAD_FILES])
def test_bad_files_fail_the_data_set_by_name(
    journey: Journey, tmp_path: Path, name: str, save: Callable[[Path], None], told: str
) -> None:
    file = tmp_path / f"{name}.npy"
    save(file)
    done = journey.run("datasets", "import", name, str(file))
    assert done.returncode == 1
    assert told in done.stderr.replace("\n", " ")
    dataset = journey.client.datasets.get(name)
    assert dataset.state == "FAILED"
    assert f"{name}.npy" in dataset.failure
    shards = journey.stack.folder / "store/datasets" / name / "shards"
    assert not shards.exists() or not list(shards.iterdir())
    with pytest.raises(PreconditionError, match="FAILED"):
        journey.client.jobs.submit({"train": {**TRAIN, "dataset": name}})


@pytest.mark.parametrize(("name", "save", "told"), UNSENT, ids=[b[0] for b in UNSENT])
def test_files_of_a_wrong_type_or_shape_are_not_sent(
    journey: Journey, tmp_path: Path, name: str, save: Callable[[Path], None], told: str
) -> None:
    np.save(tmp_path / "good.npy", rows(300))
    file = tmp_path / f"{name}.npy"
    save(file)
    done = journey.run("datasets", "import", name, str(tmp_path / "good.npy"), str(file))
    assert done.returncode == 1
    assert told in " ".join(done.stderr.split())
    assert f"{name}.npy" in done.stderr
    with pytest.raises(NotFoundError):
        journey.client.datasets.get(name)


def test_a_live_job_holds_its_data_set(journey: Journey) -> None:
    long = {**TRAIN, "model": "slow", "tokens": 50_000_000}
    job = journey.client.jobs.submit({"train": long})
    with pytest.raises(PreconditionError, match=job.id):
        journey.client.datasets.delete("acts")
    with pytest.raises(PreconditionError, match="still being made"):
        journey.client.encode("slow", rows(1))
    assert journey.run("jobs", "cancel", job.id).returncode == 0
    assert journey.client.jobs.wait(job.id).state == "CANCELLED"


def test_no_service_is_named_with_its_address() -> None:
    with (
        Client("127.0.0.1:1", "127.0.0.1:1", timeout=5) as nobody,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*saeserve up"),
    ):
        nobody.jobs.get("j-1")
