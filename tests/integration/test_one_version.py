"""One answer is one version's, whatever becomes of the reference meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.inference_server import (
    FloatArray,
    Service,
    expected_features,
    in_thread,
    refusal,
    rows,
    settings_of,
    tensor,
)
from tests.fakes.small_model import small_model

from saeserve.client import Client, SparseFeatures
from saeserve.client.errors import InvalidArgumentError
from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import TopKActivation
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import inference_service_pb2 as pb

ANSWERS = 200
ROWS = 96


class Flipped:
    """Two versions of one model, an alias that can be flipped between them, and a client whose
    calls are split into parts of 20 rows."""

    def __init__(self, registry: ModelRegistry, folder: Path, client: Client) -> None:
        self.client = client
        self.registry = registry
        self.folder = folder
        self.models: dict[str, InferenceModel] = {}
        self.publish()
        self.publish()

    def publish(self) -> None:
        """One more version, of other weights."""
        number = len(self.models) + 1
        model = small_model(TopKActivation(k=2), seed=number)
        save_model(model, self.folder / str(number))
        resource = self.registry.publish("sae", f"j-{number}", 0, self.folder / str(number))
        self.models[resource] = model

    @contextlib.contextmanager
    def flipping(self, change: Callable[[int], None]) -> Generator[None]:
        """Calls `change(turn)` again and again in a thread."""
        done = threading.Event()

        def flip() -> None:
            turn = 0
            while not done.wait(0.0005):
                change(turn)
                turn += 1

        thread = threading.Thread(target=flip)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def alias(self, turn: int) -> None:
        """Point the alias at the other version."""
        self.registry.set_alias("sae", "prod", 1 + turn % 2)


@pytest.fixture
def flipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Flipped]:
    monkeypatch.setattr("saeserve.client.inference.SPLIT_BYTES", 20 * 6 * 4)
    registry = ModelRegistry(ArtifactStore(tmp_path / "store"))
    with (
        in_thread(settings_of(tmp_path / "store")) as parts,
        Client(inference=parts.server.bound) as client,
    ):
        made = Flipped(registry, tmp_path / "exports", client)
        registry.set_alias("sae", "prod", 1)
        yield made


def of_one_version(flipped: Flipped, features: SparseFeatures, x: FloatArray) -> bool:
    """Whether every row is what the version in the label makes of it."""
    wanted = expected_features(flipped.models[features.model], x)
    return np.allclose(features.to_dense(), wanted, atol=1e-4)


def test_an_encode_during_alias_flips_is_of_one_version(flipped: Flipped) -> None:
    x = rows(ROWS)
    with flipped.flipping(flipped.alias):
        answers = [flipped.client.encode("sae@prod", x) for _ in range(ANSWERS)]
    assert sum(of_one_version(flipped, answer, x) for answer in answers) == ANSWERS
    assert {answer.model for answer in answers} == set(flipped.models)


def test_a_reconstruction_during_alias_flips_is_of_one_version(flipped: Flipped) -> None:
    x = rows(ROWS)
    wanted = [flipped.client.reconstruct(f"sae@{number}", x) for number in (1, 2)]
    with flipped.flipping(flipped.alias):
        answers = [flipped.client.reconstruct("sae@prod", x) for _ in range(ANSWERS)]
    matching = [[np.allclose(answer, each, atol=1e-5) for each in wanted] for answer in answers]
    assert all(any(each) for each in matching)
    assert any(each[0] for each in matching)
    assert any(each[1] for each in matching)


def test_an_encode_while_versions_are_published_is_of_one_version(flipped: Flipped) -> None:
    x = rows(ROWS)
    with flipped.flipping(lambda turn: flipped.publish() if turn < 20 else None):
        answers = [flipped.client.encode("sae", x) for _ in range(60)]
    assert all(of_one_version(flipped, answer, x) for answer in answers)


def test_decode_refuses_features_of_another_version(flipped: Flipped) -> None:
    features = flipped.client.encode("sae@1", rows(5))
    assert flipped.client.decode("sae@prod", features).shape == (5, 6)
    flipped.registry.set_alias("sae", "prod", 2)
    for reference in ("sae@prod", "sae", "sae@2"):
        with pytest.raises(InvalidArgumentError) as caught:
            flipped.client.decode(reference, features)
        assert caught.value.reason == "FEATURES_OF_ANOTHER_MODEL"
        assert caught.value.field == "features.model"
    unlabelled = dataclasses.replace(features, model="")
    assert flipped.client.decode("sae@2", unlabelled).shape == (5, 6)


def test_raw_calls_are_checked_too(service: Service) -> None:
    request = pb.EncodeRequest(model="topk", activations=tensor(rows(3)))
    features = service.stub.Encode(request).features
    assert features.model == "models/topk/versions/1"
    code, message, reason, _ = refusal(
        service.stub.Decode, pb.DecodeRequest(model="relu", features=features)
    )
    assert (code.name, reason) == ("INVALID_ARGUMENT", "FEATURES_OF_ANOTHER_MODEL")
    assert "models/topk/versions/1" in message
