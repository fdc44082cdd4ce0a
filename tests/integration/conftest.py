"""Real processes: an embedded Valkey, and whole stacks on it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import grpc
import pytest
import torch
from tests.fakes.bundle_store import Deployment, bundles_served
from tests.fakes.control_server import Control
from tests.fakes.inference_server import (
    MODELS,
    Service,
    crosscoder,
    in_thread,
    settings_of,
    skip_transcoder,
)
from tests.fakes.later_device import LaterDevice
from tests.fakes.real_stack import RealStack
from tests.fakes.small_model import small_model
from tests.fakes.valkey import Valkey

from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.inference import server
from saeserve.inference.staged import StagedEngine
from saeserve.inference.work import Engine
from saeserve.platform.broker import Broker
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import inference_service_pb2_grpc as pb_grpc


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows the logs of the stacks that it used."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        stacks = [value for value in item.funcargs.values() if isinstance(value, RealStack)]
        report.sections += [("logs of the stack", stack.logs()) for stack in stacks]
    return report


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Generator[Broker]:
    """A Valkey of the test's own. Short names: a unix socket's path has little room."""
    with Broker(tmp_path_factory.mktemp("b")) as running:
        yield running


@pytest.fixture(scope="module")
def make_stack(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Callable[[], RealStack]]:
    """Stacks of which nothing runs yet; all are closed after the module's tests."""
    made: list[RealStack] = []

    def make() -> RealStack:
        made.append(RealStack(tmp_path_factory.mktemp("s") / "x"))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


@pytest.fixture(scope="module")
def stack(make_stack: Callable[[], RealStack]) -> RealStack:
    """Broker, control and one worker, shared by the tests of a module; `stack.inference()`
    adds inference."""
    made = make_stack()
    made.start_broker()
    made.control()
    made.worker()
    return made


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    # Short names: a unix socket's path has little room.
    with Valkey(tmp_path_factory.mktemp("v")) as server:
        yield server


@pytest.fixture
def control(tmp_path: Path, valkey: Valkey) -> Iterator[Control]:
    valkey.flush()
    service = Control(tmp_path, valkey)
    service.start()
    yield service
    service.stop()


def staged(_device: torch.device) -> Engine[InferenceModel]:
    return StagedEngine(LaterDevice())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with bundles_served(tmp_path_factory.mktemp("bundles")) as made:
        yield made


@pytest.fixture(scope="module", params=["one stage", "as on a GPU"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server that computes in one stage, and one whose device works later, as a GPU does."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on a GPU":
            patch.setattr(server, "engine_of", staged)
        yield from served(tmp_path_factory)


def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("inference")
    registry = ModelRegistry(ArtifactStore(root / "store"))
    models = {name: small_model(activation) for name, activation in MODELS.items()}
    models |= {"crosscoder": crosscoder(), "skip": skip_transcoder()}
    for name, model in models.items():
        save_model(model, root / name)
        registry.publish(name, "j-test", 0, root / name)
    settings = settings_of(root / "store", batch_rows=16)
    with in_thread(settings) as parts, grpc.insecure_channel(parts.server.bound) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        metrics = f"http://{parts.metrics.address}/metrics"
        yield Service(stub, channel, registry, models, metrics, parts.server.bound)
