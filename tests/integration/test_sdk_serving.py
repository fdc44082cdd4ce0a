"""The SDK against a real inference service: what users hold, calls of many parts, a full queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.fakes.inference_server import in_thread, rows, settings_of
from tests.fakes.small_model import small_model

from saeserve.client import Client
from saeserve.client.errors import (
    ClientError,
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
)
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import ReluActivation, TopKActivation
from saeserve.errors import Overloaded
from saeserve.inference.batcher import Batcher
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry

ROWS = 1000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the models `topk` and `relu`, of 6 columns and 20 latents."""
    folder = tmp_path_factory.mktemp("store")
    registry = ModelRegistry(ArtifactStore(folder))
    for name, activation in (("topk", TopKActivation(k=4)), ("relu", ReluActivation())):
        export = folder.with_name(f"{folder.name}-{name}")
        save_model(small_model(activation), export)
        registry.publish(name, f"j-{name}", 0, export)
    return folder


@pytest.fixture(scope="module")
def address(store: Path) -> Generator[str]:
    with in_thread(settings_of(store)) as parts:
        yield parts.server.bound


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch) -> Generator[Client]:
    """Calls are split into parts of 20 rows."""
    monkeypatch.setattr("saeserve.client.inference.SPLIT_BYTES", 20 * 6 * 4)
    with Client(inference=address) as made:
        yield made


def test_tensors_lists_and_files_are_taken(client: Client, tmp_path: Path) -> None:
    x = torch.as_tensor(rows(ROWS)).bfloat16()
    wanted = client.encode("topk", x.float().numpy())
    np.save(tmp_path / "x.npy", x.double().numpy())
    lists: Any = cast(Any, x).tolist()
    inputs: list[Any] = [x, x.double(), lists, tmp_path / "x.npy", str(tmp_path / "x.npy")]
    for given in inputs:
        features = client.encode("topk", given)
        assert np.array_equal(features.to_dense(), wanted.to_dense())
        assert np.array_equal(
            client.reconstruct("topk", given), client.reconstruct("topk", x.float().numpy())
        )


@pytest.mark.parametrize("model", ["topk", "relu"])
def test_a_decode_of_many_parts_is_the_reconstruction(client: Client, model: str) -> None:
    x = rows(4, ROWS // 4)
    features = client.encode(model, x)
    y = client.decode(model, features)
    assert y.shape == x.shape
    assert np.allclose(y, client.reconstruct(model, x), atol=1e-5)
    for given in (features.to_dense(), torch.as_tensor(features.to_dense())):
        assert np.allclose(client.decode(model, given), y, atol=1e-6)
    assert np.allclose(client.decode(model, features.to_scipy()).reshape(y.shape), y, atol=1e-6)
    empty = client.encode(model, x[:, :0])
    assert client.decode(model, empty).shape == (4, 0, 6)


def test_answers_larger_than_a_message_come_in_halves(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a wide, dense model: nothing tells the SDK before the first refusal."""
    monkeypatch.setattr("saeserve.client.inference.SPLIT_BYTES", 2**20)
    x = rows(ROWS)
    features, y = client.encode("relu", x), client.reconstruct("relu", x)
    monkeypatch.setattr("saeserve.inference.converters.rows.MAX_MESSAGE_BYTES", 3000)
    assert np.array_equal(client.encode("relu", x).to_dense(), features.to_dense())
    assert np.allclose(client.reconstruct("relu", x), y, atol=1e-5)
    assert np.allclose(client.decode("relu", features), y, atol=1e-5)
    monkeypatch.setattr("saeserve.inference.converters.rows.MAX_MESSAGE_BYTES", 10)
    with pytest.raises(InvalidArgumentError, match="larger than a message"):
        client.encode("relu", x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_row_is_named_by_its_place_in_the_batch(client: Client, value: float) -> None:
    x = rows(ROWS)
    x[777, 3] = value
    for call in (client.encode, client.reconstruct):
        with pytest.raises(InvalidArgumentError, match="row 777, column 3") as caught:
            call("topk", x)
        assert caught.value.reason == "NOT_FINITE"
    with pytest.raises(InvalidArgumentError, match="row 777, column 3 is 1e\\+39"):
        client.encode("topk", np.where(np.isfinite(x), x.astype(np.float64), 1e39))


def test_values_of_both_types_are_returned(client: Client) -> None:
    x = rows(50)
    exact = client.encode("relu", x).to_dense()
    for wire, tolerance in (("f32", 0.0), ("f16", 2.0**-10)):
        values: Any = wire
        found = client.encode("relu", x, values=values).to_dense()
        assert np.all(np.abs(found - exact) <= tolerance * np.abs(exact))


class Full:
    """A queue that refuses the calls whose numbers it is given, and says when to come again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: set[int], delay: float) -> None:
        self.calls = 0
        lock = threading.Lock()
        submit: Any = cast(Any, Batcher).submit

        async def counted(batcher: Any, *arguments: Any) -> Any:  # noqa: ANN401 - the batcher's own
            with lock:
                self.calls += 1
                number = self.calls
            if number in refused:
                raise Overloaded("the queue is full", retry_after_s=delay, remedy="wait")
            return await submit(batcher, *arguments)

        monkeypatch.setattr(Batcher, "submit", counted)


def test_a_refused_part_does_not_lose_the_call(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rows(ROWS)
    features, y = client.encode("topk", x), client.reconstruct("topk", x)
    full = Full(monkeypatch, {1, 7, 8, 20, 60}, 0.01)
    assert np.array_equal(client.encode("topk", x).to_dense(), features.to_dense())
    assert full.calls == ROWS // 20 + 4
    assert np.array_equal(client.reconstruct("topk", x), y)
    assert np.allclose(client.decode("topk", features), y, atol=1e-5)


def test_the_delay_of_the_server_is_kept_within_the_deadline(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(monkeypatch, set(range(1, 1000)), 30.0)
    with Client(inference=address, timeout=10) as client:
        for timeout in (None, 5.0):
            with pytest.raises(OverloadedError) as caught:
                client.encode("topk", rows(3), timeout=timeout)
            assert caught.value.retry_after_s == 30.0
    # The delay would have ended after the deadline, so nothing was waited for or asked again.
    assert full.calls == 2


def test_what_has_no_delay_is_not_asked_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(monkeypatch, {1}, 0.0)
    with pytest.raises(OverloadedError):
        client.encode("topk", rows(3))
    assert full.calls == 1


def test_a_timeout_bounds_all_parts_together(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    Full(monkeypatch, set(range(2, 10**6)), 0.02)
    with pytest.raises((DeadlineError, OverloadedError)):
        client.encode("topk", rows(ROWS), timeout=0.3)
    assert time.monotonic() - begun < 30
    with pytest.raises(DeadlineError) as caught:
        client.encode("topk", rows(3), timeout=0.0)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_many_callers_of_a_small_queue_all_get_answers(store: Path) -> None:
    settings: InferenceSettings = settings_of(store, batch_rows=64)
    settings = settings.model_copy(update={"inference_queue_rows": 128})
    x = rows(ROWS)
    with in_thread(settings) as parts, Client(inference=parts.server.bound) as client:
        wanted = client.encode("topk", x).to_dense()
        pieces = np.array_split(x, 20)

        def encode(_number: int) -> bool:
            found = [client.encode("topk", piece).to_dense() for piece in pieces]
            # Blocks of other sizes may round differently.
            return np.allclose(np.concatenate(found), wanted, rtol=0, atol=1e-5 * wanted.max())

        with ThreadPoolExecutor(10) as pool:
            assert all(pool.map(encode, range(10)))


def test_other_services_are_told_apart(address: str) -> None:
    with Client(control=address) as client, pytest.raises(ClientError) as caught:
        client.jobs.get("j-00000000000000000001")
    assert caught.value.code == "UNIMPLEMENTED"
    assert address in caught.value.message
    assert "SAESERVE_CONTROL_ADDRESS" in caught.value.remedy
