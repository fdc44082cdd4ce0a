"""What the inference service refuses, shows and says, as a real server and as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.fakes.inference_server import (
    BF16,
    F16,
    F32,
    INVALID,
    Service,
    in_thread,
    refusal,
    rows,
    settings_of,
    tensor,
)
from tests.fakes.small_model import small_model

from saeserve.core.export.format import save_model
from saeserve.core.formats.model import (
    TopKActivation,
)
from saeserve.inference.servicer import NAME
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import MARKER, Marker
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import inference_service_pb2_grpc as pb_grpc
from saeserve.v1 import tensor_pb2


@pytest.mark.parametrize(
    ("request_message", "expected", "text"),
    [
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2, d=5))),
            (INVALID, "WIDTH_MISMATCH", "activations.shape"),
            "models/topk/versions/1 has d_in = 6, the request 5",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2) * np.float32(np.nan))),
            (INVALID, "NOT_FINITE", "activations.data"),
            "row 0, column 0 is nan",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2)), values_dtype=BF16),
            (INVALID, "BAD_TYPE", "values_dtype"),
            "choose one of F32, F16",
        ),
        (
            pb.EncodeRequest(activations=tensor(rows(2))),
            (INVALID, "NO_MODEL", "model"),
            "no model is named",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2) + np.float32(3e38))),
            (INVALID, "OVERFLOW", "activations.data"),
            "leaves float32",
        ),
        (
            pb.EncodeRequest(
                model="topk", activations=tensor(rows(2) * np.float32(1e6)), values_dtype=F16
            ),
            (INVALID, "OVERFLOW", "values_dtype"),
            "ask for F32",
        ),
        (
            pb.EncodeRequest(model="none", activations=tensor(rows(2))),
            (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
            "there is no model none",
        ),
        (
            pb.EncodeRequest(model="topk@7", activations=tensor(rows(2))),
            (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
            "model topk has no version 7",
        ),
    ],
)
def test_bad_requests_are_refused_by_name(
    service: Service,
    request_message: pb.EncodeRequest,
    expected: tuple[grpc.StatusCode, str, str],
    text: str,
) -> None:
    code, message, reason, field = refusal(service.stub.Encode, request_message)
    assert (code, reason, field) == expected
    assert text in message


def test_features_of_another_width_are_refused(service: Service) -> None:
    features = tensor_pb2.SparseFeatures(
        shape=[1, 21], index_type=tensor_pb2.INDEX_TYPE_U16, values_dtype=F32
    )
    request = pb.DecodeRequest(model="topk", features=features)
    code, message, _, field = refusal(service.stub.Decode, request)
    assert (code, field) == (INVALID, "features.shape")
    assert "has d_sae = 20, the request 21" in message


def test_a_small_request_for_a_huge_answer_is_refused(service: Service) -> None:
    features = tensor_pb2.SparseFeatures(
        shape=[2**23, 20], index_type=tensor_pb2.INDEX_TYPE_U16, values_dtype=F32
    )
    request = pb.DecodeRequest(model="topk", features=features)
    assert refusal(service.stub.Decode, request)[2] == "TOO_LARGE"


def test_health_and_reflection(service: Service) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", NAME):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = reflection.ServerReflectionInfo(iter([request]))
    names = {each.name for each in listed.list_services_response.service}
    assert NAME in names


def test_metrics_tell_what_was_served(service: Service) -> None:
    service.stub.Encode(pb.EncodeRequest(model="topk", activations=tensor(rows(3))))
    with urlopen(service.metrics) as answer:
        text = answer.read().decode()
    for line in (
        f'saeserve_grpc_requests_total{{code="OK",method="Encode",service="{NAME}"}}',
        "saeserve_encode_rows_total",
        "saeserve_batch_rows_bucket",
        "saeserve_queue_rows 0.0",
        "saeserve_queue_wait_seconds_count",
        'saeserve_stage_seconds_count{stage="compute"}',
        'saeserve_stage_seconds_count{stage="parse"}',
        'saeserve_model_loads_total{result="ok"}',
        "saeserve_models_resident_bytes",
    ):
        assert line in text, line


def test_a_damaged_model_is_a_failed_precondition(tmp_path: Path) -> None:
    registry = ModelRegistry(ArtifactStore(tmp_path / "store"))
    save_model(small_model(TopKActivation(k=2)), tmp_path / "model")
    registry.publish("hurt", "j-test", 0, tmp_path / "model")
    tensors = registry.resolve("hurt").folder / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    request = pb.EncodeRequest(model="hurt", activations=tensor(rows(1)))
    with (
        in_thread(settings_of(tmp_path / "store")) as parts,
        grpc.insecure_channel(parts.server.bound) as channel,
    ):
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        code, _, reason, _ = refusal(stub.Encode, request)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BAD_DATA")


def process(tmp_path: Path, **settings: str) -> subprocess.Popen[str]:
    given = {
        "STORE": str(tmp_path),
        "INFERENCE_ADDRESS": "127.0.0.1:0",
        "INFERENCE_METRICS_ADDRESS": "127.0.0.1:0",
        "INFERENCE_DEVICE": "cpu",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "saeserve.inference"],
        env=os.environ | {f"SAESERVE_{name}": value for name, value in given.items()},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_says_that_it_is_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    # Without a store it is alive, and says that it is not ready.
    (tmp_path / MARKER).write_text(Marker.new().model_dump_json())
    with process(tmp_path) as running_process:
        assert running_process.stderr is not None
        line = running_process.stderr.readline()
        assert " ready address=127.0.0.1:" in line
        running_process.send_signal(signal.SIGTERM)
        assert running_process.wait(240) == 0
        assert running_process.stderr.read() == ""


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    with process(tmp_path, INFERENCE_ADDRESS="0.0.0.0:0") as refused:
        assert refused.wait(240) == 2
        assert refused.stderr is not None
        text = refused.stderr.read()
        assert text.startswith("saeserve inference: 0.0.0.0:0 can be reached")
        assert text.count("\n") == 1
