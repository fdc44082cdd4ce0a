"""The SDK's uploads to a control service: what users hold arrives, what is wrong stays here."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - untyped
from tests.fakes.control_server import Control
from tests.fakes.transferring import client_of

from saeserve.client import Client
from saeserve.client.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
)

X = np.random.default_rng(1).normal(size=(700, 600)).astype(np.float32)


@pytest.fixture
def client(control: Control) -> Generator[Client]:
    with client_of(control) as made:
        yield made


def stored(control: Control, dataset: str, name: str) -> Path:
    return next(control.settings.store.rglob(f"{dataset}/incoming/{name}"))


ARRAYS: dict[str, Any] = {
    "float32": X,
    "float16": X.astype(np.float16),
    "float64": X.astype(np.float64),
    "bfloat16": torch.as_tensor(X).bfloat16(),
    "transposed": torch.as_tensor(X.T.copy()).T,
    "big-endian": X.astype(">f4"),
    "lists": X[:3].tolist(),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_arrive_in_their_type(control: Control, client: Client, kind: str) -> None:
    dataset = client.datasets.upload("acts", ARRAYS[kind])
    assert dataset.state == "PENDING"
    assert [file["name"] for file in dataset.files] == ["activations.safetensors"]
    found = load_file(stored(control, "acts", "activations.safetensors"))["activations"]
    given = ARRAYS[kind]
    tensor = given if isinstance(given, torch.Tensor) else torch.as_tensor(np.array(given, "=f4"))
    assert found.dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert (found.dtype == torch.bfloat16) == (kind == "bfloat16")
    assert (found.dtype == torch.float16) == (kind == "float16")
    wanted = tensor.half() if kind == "float16" else tensor
    assert torch.equal(found.float(), wanted.float())


def test_several_sources_are_one_file(control: Control, client: Client) -> None:
    data = {"mlp_in.3": X, "mlp_out.3": torch.as_tensor(X[:, :5]).bfloat16()}
    client.datasets.upload("pairs", data, name="pairs.safetensors")
    found = load_file(stored(control, "pairs", "pairs.safetensors"))
    assert torch.equal(found["mlp_in.3"], torch.as_tensor(X))
    assert torch.equal(found["mlp_out.3"], torch.as_tensor(X[:, :5]).bfloat16())


def test_paths_are_taken_as_text_and_together(
    control: Control, client: Client, tmp_path: Path
) -> None:
    paths = [str(tmp_path / "a.npy"), tmp_path / "b.npy"]
    for path in paths:
        np.save(path, X)
    client.datasets.upload("acts", paths[0])
    dataset = client.datasets.upload("acts", paths)
    assert sorted(file["name"] for file in dataset.files) == ["a.npy", "b.npy"]
    assert stored(control, "acts", "a.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()


def test_progress_is_told_of_all_files_together(client: Client, tmp_path: Path) -> None:
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in paths:
        np.save(path, X)
    heard: list[tuple[str, int, int]] = []
    client.datasets.upload(
        "acts", paths, progress=lambda name, done, total: heard.append((name, done, total))
    )
    one = paths[0].stat().st_size
    assert {total for _, _, total in heard} == {2 * one}
    done = [each for _, each, _ in heard]
    assert done == sorted(done)
    assert heard[0] == ("a.npy", 0, 2 * one)
    assert ("b.npy", one, 2 * one) in heard
    assert heard[-1] == ("b.npy", 2 * one, 2 * one)


@pytest.mark.parametrize("sent", [0, 1, 2**20 + 7])
def test_an_upload_of_arrays_goes_on_where_it_broke_off(
    control: Control, client: Client, sent: int
) -> None:
    client.datasets.upload("whole", X)
    whole = stored(control, "whole", "activations.safetensors").read_bytes()
    with pytest.raises(DeadlineError):
        client.datasets.upload("acts", X, timeout=0.0)
    client.datasets.upload("acts", X)
    file = stored(control, "acts", "activations.safetensors")
    assert file.read_bytes() == whole
    # As if the last call had been cut off after `sent` bytes.
    file.rename(file.with_name(f"{file.name}.part"))
    with file.with_name(f"{file.name}.part").open("r+b") as part:
        part.truncate(sent)
    assert client.datasets.received("acts", "activations.safetensors") == sent
    client.datasets.upload("acts", X)
    assert file.read_bytes() == whole


WRONG: dict[str, Any] = {
    "integers": X.astype(np.int32),
    "one axis": X[0],
    "three axes": X[None],
    "no rows": X[:0],
    "NaN": np.array([[1.0, np.nan]]),
    "beyond float32": np.array([[1.0, 1e39]]),
    "different rows": {"a": X, "b": X[:5]},
    "nothing": {},
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arrays_are_refused_before_they_are_sent(client: Client, kind: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.datasets.upload("acts", WRONG[kind])
    assert caught.value.reason
    with pytest.raises(NotFoundError):
        client.datasets.get("acts")


def test_wrong_files_are_refused_before_any_is_sent(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", X)
    np.save(tmp_path / "wrong.npy", X.astype(np.int64))
    np.save(tmp_path / "flat.npy", X[0])
    for name in ("wrong.npy", "flat.npy", "typo.npy"):
        with pytest.raises(InvalidArgumentError, match=name):
            client.datasets.upload("acts", [tmp_path / "good.npy", tmp_path / name])
    with pytest.raises(NotFoundError):
        client.datasets.get("acts")


def test_wrong_references_are_refused_before_any_file_is_sent(
    control: Control, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "cfg.json").write_text("{}")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "short.npy", X[:5])
    np.save(tmp_path / "codes.npy", X.astype(np.int64))
    for name in ("short.npy", "codes.npy", "typo.npy"):
        items = {
            "model": tmp_path / "model",
            "reference/activations.npy": tmp_path / "x.npy",
            "reference/features.npy": tmp_path / name,
        }
        with pytest.raises(InvalidArgumentError):
            client.transfers.upload(items)
    assert not [path for path in control.settings.store.rglob("uploads/*") if path.is_file()]
    upload = client.transfers.upload(
        {"model": str(tmp_path / "model"), "reference/activations.npy": str(tmp_path / "x.npy")}
    )
    assert upload.startswith("uploads/")


def test_transfers_end_at_their_timeout(client: Client, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(2**20))
    with pytest.raises(DeadlineError):
        client.transfers.upload({"model": tmp_path / "weights.bin"}, timeout=0.0)
    with pytest.raises(DeadlineError):
        list(client.store.collect_garbage(timeout=0.0))
