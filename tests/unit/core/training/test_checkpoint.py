"""Checkpoints are bit-exact, and what cannot be resumed is refused with a reason."""

from __future__ import annotations

import ctypes
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
import torch
from safetensors import SafetensorError
from tests.fakes.training import D, F, FolderSink, run_all, tiny_setup, tiny_spec

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.training import checkpoint, environment
from saeserve.core.training.checkpoint import HEADER_FILE, TENSORS_FILE
from saeserve.core.training.environment import Card, Environment
from saeserve.core.training.events import Warned
from saeserve.core.training.state import TrainerState
from saeserve.core.training.trainer import Trainer
from saeserve.errors import CheckpointError, DataMismatchError, NoSpaceError

SPEC = tiny_spec("topk", tokens=3 * 64, log_every_steps=2)
DIMS = Dimensions(D, D, F)
CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path: Path) -> tuple[TrainerState, Path]:
    trainer = Trainer.start(tiny_setup(SPEC))
    run_all(trainer, FolderSink(tmp_path))
    trainer.state.meter.add({"loss": torch.tensor(1.0), "rows": 64})
    folder = tmp_path / "saved"
    folder.mkdir()
    checkpoint.save(folder, trainer.state, SPEC, DIMS)
    return trainer.state, folder


def test_what_is_loaded_is_what_was_saved(trained: tuple[TrainerState, Path]) -> None:
    state, folder = trained
    loaded = checkpoint.load(folder, SPEC, DIMS, CPU)
    assert (loaded.state.step, loaded.state.tokens) == (3, 192)
    assert loaded.environment == Environment.of(SPEC, CPU)
    before, after = state.tensors(), loaded.state.tensors()
    assert before.keys() == after.keys()
    assert {"meter.loss", "architecture.variance", "second.W_enc"} < before.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert value.dtype == after[name].dtype, name


def test_the_header_says_where_it_was_made(trained: tuple[TrainerState, Path]) -> None:
    header = json.loads((trained[1] / HEADER_FILE).read_text())
    assert header["format_version"] == 2
    assert header["environment"]["threads"] == torch.get_num_threads()
    assert header["environment"]["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert header["environment"]["code_version"]


def always(value: object) -> Callable[[torch.device], object]:
    return lambda _: value


H200 = Card(name="NVIDIA H200", cuda="13.0", cublas="13.1.0", triton="3.6.0")


def test_the_header_names_the_card_and_what_computes_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "of", always(H200))
    setup = tiny_setup(SPEC)
    Trainer.start(setup).checkpoints.save(tmp_path)
    header = json.loads((tmp_path / HEADER_FILE).read_text())
    assert header["environment"]["card"] == H200.to_json()
    assert checkpoint.load(tmp_path, SPEC, DIMS, CPU).environment.card == H200
    assert warnings_of(Trainer.resume(setup, tmp_path)) == []
    other = H200.model_copy(update={"name": "NVIDIA H100"})
    monkeypatch.setattr(Card, "of", always(other))
    (warned,) = warnings_of(Trainer.resume(setup, tmp_path))
    assert warned.code == "ENVIRONMENT_CHANGED"
    assert "H200" in warned.message
    assert "H100" in warned.message


def warnings_of(trainer: Trainer) -> list[Warned]:
    return [each for each in trainer.opening() if each.code == "ENVIRONMENT_CHANGED"]


def test_on_a_cpu_there_is_no_card() -> None:
    assert Card.of(CPU) is None
    assert "card" not in Environment.of(SPEC, CPU).to_json()


def test_a_card_says_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", always("NVIDIA H200"))
    monkeypatch.setattr("torch.version.cuda", "1.0")
    monkeypatch.setattr(environment, "available", lambda: False)
    card = Card.of(torch.device("cuda"))
    # No machine has this version of CUDA, so nothing is loaded that could be asked.
    assert card == Card(name="NVIDIA H200", cuda="1.0", cublas="", triton="")


class Reference(Protocol):
    """What `ctypes.pointer` makes."""

    contents: ctypes.c_int


def test_cublas_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def cublasGetProperty(self, part: int, value: Reference) -> int:  # noqa: N802 - cuBLAS's name
            value.contents.value = (13, 1, 2)[part]
            return 0

    opened: list[str] = []

    def load(name: str) -> Library:
        opened.append(name)
        return Library()

    monkeypatch.setattr("ctypes.CDLL", load)
    assert environment.cublas_version("13.0") == "13.1.2"
    assert opened == ["libcublas.so.13"]


def test_changing_what_was_loaded_leaves_the_file_alone(
    trained: tuple[TrainerState, Path],
) -> None:
    folder = trained[1]
    before = (folder / TENSORS_FILE).read_bytes()
    checkpoint.load(folder, SPEC, DIMS, CPU).state.params["W_enc"].zero_()
    assert (folder / TENSORS_FILE).read_bytes() == before


@pytest.mark.parametrize("name", [HEADER_FILE, TENSORS_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_damaged_file_is_named(
    trained: tuple[TrainerState, Path], name: str, damage: str
) -> None:
    path = trained[1] / name
    whole = path.read_bytes()
    contents = {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\xff" * 64}
    path.unlink()
    if damage != "missing":
        path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(trained[1], SPEC, DIMS, CPU)


def edit(folder: Path, **changes: object) -> None:
    path = folder / HEADER_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "has format 3; this release reads 1 and 2"),
        ({"step": "three"}, "step"),
        ({"surplus": 1}, "surplus: there is no such field"),
        ({"tensors": {}}, "differ in .*params.W_enc"),
        ({"d_in": 5}, r"was \(5, 16\) and the data now has \(16, 16\)"),
    ],
    ids=["format", "type", "field", "tensors", "width"],
)
def test_a_header_that_does_not_fit_is_refused(
    trained: tuple[TrainerState, Path], changes: dict[str, object], message: str
) -> None:
    edit(trained[1], **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(trained[1], SPEC, DIMS, CPU)


def test_a_run_goes_on_only_on_the_data_set_that_it_was_begun_on(tmp_path: Path) -> None:
    setup = dataclasses.replace(tiny_setup(SPEC), data_sha256="a" * 64)
    Trainer.start(setup).checkpoints.save(tmp_path)
    assert Trainer.resume(setup, tmp_path).step == 0
    other = dataclasses.replace(setup, data_sha256="b" * 64)
    with pytest.raises(DataMismatchError, match=f"another data set {SPEC.dataset}.*aaa.*bbb"):
        Trainer.resume(other, tmp_path)


def test_a_checkpoint_of_format_1_is_read_though_it_names_no_data(
    trained: tuple[TrainerState, Path],
) -> None:
    path = trained[1] / HEADER_FILE
    header = json.loads(path.read_text())
    del header["data_sha256"]
    path.write_text(json.dumps(header | {"format_version": 1}))
    assert checkpoint.load(trained[1], SPEC, DIMS, CPU, "a" * 64).state.step == 3


def test_a_header_that_is_no_object_is_refused(trained: tuple[TrainerState, Path]) -> None:
    (trained[1] / HEADER_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        checkpoint.load(trained[1], SPEC, DIMS, CPU)


def test_another_spec_is_refused_saying_what_differs(
    trained: tuple[TrainerState, Path],
) -> None:
    other = tiny_spec("topk", tokens=3 * 64, log_every_steps=2, seed=9, data_seed=0)
    with pytest.raises(CheckpointError, match="another spec: seed was 0 and is 9"):
        checkpoint.load(trained[1], other, DIMS, CPU)


def saved_without(state: TrainerState, names: list[str], folder: Path) -> Path:
    folder.mkdir()
    tensors = {name: value for name, value in state.tensors().items() if name not in names}
    state.tensors = lambda: tensors
    checkpoint.save(folder, state, SPEC, DIMS)
    return folder


@pytest.mark.parametrize("name", ["tokens_since_fired", "tokens_since_fired_or_resampled"])
def test_a_state_without_a_counter_is_refused(
    name: str, trained: tuple[TrainerState, Path]
) -> None:
    state, folder = trained
    incomplete = saved_without(state, [f"counters.{name}"], folder / "other")
    with pytest.raises(CheckpointError, match=f"holds no {name}$"):
        checkpoint.load(incomplete, SPEC, DIMS, CPU)


def test_format_1_had_one_counter_for_both(trained: tuple[TrainerState, Path]) -> None:
    state, folder = trained
    counter_F = state.tokens_since_fired_F
    old = saved_without(state, ["counters.tokens_since_fired_or_resampled"], folder / "old")
    edit(old, format_version=1)
    loaded = checkpoint.load(old, SPEC, DIMS, CPU).state
    assert torch.equal(loaded.tokens_since_fired_F, counter_F)
    assert torch.equal(loaded.tokens_since_fired_or_resampled_F, counter_F)
    assert loaded.tokens_since_fired_F is not loaded.tokens_since_fired_or_resampled_F


def test_a_full_disk_is_told_as_such(
    trained: tuple[TrainerState, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(tensors: object, path: Path) -> None:
        assert tensors
        raise SafetensorError(f"I/O error: No space left on device (os error 28) {path.name}")

    monkeypatch.setattr(checkpoint, "save_file", no_room)
    with pytest.raises(NoSpaceError, match="is full") as caught:
        checkpoint.save(tmp_path, trained[0], SPEC, DIMS)
    assert caught.value.retryable
