"""What was changed behind a job's back is neither resumed on nor trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.fakes.workshop import Workshop

from saeserve.worker.order import ExitCode

SWEEP = {"topk": {}, "sweep": {"k": [2, 4]}}


@pytest.fixture(autouse=True)
def data(shop: Workshop) -> None:
    shop.planted(shard_rows=512)


def shard(shop: Workshop, number: int = 1) -> Path:
    return shop.bench.datasets.get("planted").folder / f"shards/{number:05d}.safetensors"


def flip(path: Path, tensor: str, at: float = 0.5) -> None:
    """Flip one bit of a tensor's data, `at` as a share of its bytes."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8:start])[tensor]["data_offsets"]
    data[start + first + int((last - first - 1) * at)] ^= 0x10
    path.write_bytes(data)


def remake(shop: Workshop, seed: int = 1) -> None:
    """Delete the data set and make another of the same name and shape."""
    shutil.rmtree(shop.bench.datasets.get("planted").folder)
    shop.planted(shard_rows=512, seed=seed)


@pytest.mark.parametrize("fields", [{}, SWEEP], ids=["alone", "sweep"])
def test_an_attempt_does_not_go_on_with_other_data_of_the_same_name(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        assert shop.train("j-1", **fields) is ExitCode.STOPPED
    shop.stop.clear()
    remake(shop, seed=9)
    assert shop.run("j-1") is ExitCode.FAILED
    failure = shop.failure("j-1", 2)
    assert (failure.code, failure.retryable) == ("DATA_MISMATCH", False)
    assert "another data set planted" in failure.message
    assert shop.models.keys() == []


def test_an_attempt_goes_on_when_the_same_data_were_restored(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        shop.train("j-1")
    shop.stop.clear()
    remake(shop)
    assert shop.run("j-1") is ExitCode.FINISHED


@pytest.mark.parametrize(
    "tensor",
    ["activations", "document", "norm.activations", "token_id"],
)
@pytest.mark.parametrize("fields", [{}, SWEEP], ids=["alone", "sweep"])
def test_a_flipped_bit_in_a_shard_is_not_trained_on(
    shop: Workshop, tensor: str, fields: dict[str, object]
) -> None:
    flip(shard(shop), tensor)
    assert shop.train("j-1", **fields) is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == ("BAD_DATA", False)
    assert "shards/00001.safetensors" in failure.message
    assert shop.models.keys() == []


def test_an_impossible_document_is_bad_data_and_names_the_row(shop: Workshop) -> None:
    flip(shard(shop), "document", at=1.0)
    shop.train("j-1")
    assert shop.failure("j-1").code == "BAD_DATA"
    assert "shards/00001.safetensors, row 511: document " in shop.failure("j-1").message


def test_a_shard_that_is_replaced_while_a_job_runs_is_verified_again(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than the data set has, so that every shard is read again."""
    with monkeypatch.context() as patch:
        shop.stop_at(5, patch)
        monkeypatch.setattr(shop.stop, "is_set", lambda: shop.stop.wait(0) and _swap(shop))
        assert shop.train("j-1", preprocess={"window_shards": 1}, tokens=6400) is ExitCode.FAILED
    assert shop.failure("j-1").code == "BAD_DATA"


def _swap(shop: Workshop) -> bool:
    """Replace every shard by one with a flipped bit, and let the job go on."""
    for path in shard(shop).parent.iterdir():
        copy = path.with_name("copy")
        shutil.copy(path, copy)
        flip(copy, "activations")
        copy.replace(path)
    shop.stop.clear()
    return False


def test_a_flipped_bit_in_held_out_rows_is_not_evaluated_on(shop: Workshop) -> None:
    shop.train("j-1")
    flip(shard(shop), "activations")
    spec = {"model": "m", "dataset": "planted"}
    assert shop.submit("j-2", "evaluate", spec) is ExitCode.FAILED
    assert shop.failure("j-2").code == "BAD_DATA"
    assert "shards/00001.safetensors" in shop.failure("j-2").message


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["evaluate", "export_model", "train"])
def test_a_flipped_bit_in_a_model_is_not_computed_with(
    shop: Workshop, kind: str, file: str
) -> None:
    shop.train("j-1")
    path = shop.model("m").folder / file
    data = bytearray(path.read_bytes())
    # The last digit of a number in the lineage, or a bit of a weight: both stay readable.
    at = data.index(b'"l0"') + len(b'"l0": 3.12') if file == "config.json" else len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)
    specs: dict[str, dict[str, object]] = {
        "evaluate": {"model": "m", "dataset": "planted"},
        "export_model": {"model": "m", "format": "saelens"},
    }
    if kind == "train":
        shop.train("j-2", model="n", init_from="m")
    else:
        shop.submit("j-2", kind, specs[kind])
    failure = shop.failure("j-2")
    assert failure.code == "BAD_DATA"
    assert f"models/m/versions/1/{file}" in failure.message


@pytest.mark.parametrize("content", [b"", b"{", b'{"format_version": 1}', b"[" * 100_000])
def test_a_damaged_manifest_is_bad_data_and_named(shop: Workshop, content: bytes) -> None:
    path = shop.bench.datasets.get("planted").folder / "manifest.json"
    path.write_bytes(content)
    assert shop.train("j-1") is ExitCode.FAILED
    assert shop.failure("j-1").code == "BAD_DATA"
    assert "manifest.json" in shop.failure("j-1").message
