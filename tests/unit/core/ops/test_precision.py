"""Which type GEMMs are done in."""

from __future__ import annotations

import pytest
import torch
from tests.fakes.training import tiny_spec

from saeserve.core.ops import precision
from saeserve.core.ops.precision import chosen_dtype, encoder_dtype
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def on_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def nowhere(_device: torch.device) -> bool:
    return False


def test_what_is_asked_for_is_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities in ({"avx2": True}, {"avx512_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)  # noqa: B023
        assert chosen_dtype("float32", CPU) is torch.float32
        assert chosen_dtype("bfloat16", CPU) is torch.bfloat16


@pytest.mark.parametrize("feature", ["amx_bf16", "avx512_bf16", "bf16"])
def test_auto_is_low_where_the_cpu_has_instructions(
    monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, feature: False})
    assert chosen_dtype("auto", CPU) is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, feature: True})
    assert chosen_dtype("auto", CPU) is torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_cuda_does_not_take_emulation_for_support(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert chosen_dtype("auto", CUDA) is getattr(torch, expected)


def test_auto_is_low_only_where_the_choice_of_latents_stays_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "available", lambda: True)
    exact = {
        name: encoder_dtype(tiny_spec(name, encoder_dtype="auto"), CPU) is torch.bfloat16
        for name in ARCHITECTURE_SPECS
    }
    rounded = {"relu", "gated"}
    assert exact == {name: name not in rounded for name in ARCHITECTURE_SPECS}
    asked = tiny_spec("relu", encoder_dtype="bfloat16")
    assert encoder_dtype(asked, CPU) is torch.bfloat16


def test_jumprelu_is_low_by_itself_only_where_kernels_take_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Autograd of its loss would fire as the rounded pre-activations do."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_options: True)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    spec, low = tiny_spec("jumprelu", encoder_dtype="auto"), torch.bfloat16
    monkeypatch.setattr(precision, "available", lambda: True)
    assert encoder_dtype(spec, CPU) is low
    assert encoder_dtype(spec, CUDA) is torch.float32
    assert encoder_dtype(tiny_spec("topk", encoder_dtype="auto"), CUDA) is low
    monkeypatch.setattr(precision, "runs_kernels", on_cuda)
    assert encoder_dtype(spec, CUDA) is low
    skipping = spec.model_copy(update={"skip_connection": True})
    assert encoder_dtype(skipping, CPU) is low
    monkeypatch.setattr(precision, "available", lambda: False)
    for each in (spec, skipping):
        assert encoder_dtype(each, CPU) is torch.float32
    assert encoder_dtype(spec.model_copy(update={"encoder_dtype": "bfloat16"}), CPU) is low


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_on_a_gpu_dense_architectures_are_low_where_its_kernels_take_the_step(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With AuxK and without Triton autograd takes it; a skip connection changes nothing."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_options: True)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    spec = tiny_spec(name, encoder_dtype="auto")
    plain = spec.architecture.model_copy(update={"auxk_coefficient": 0.0})
    spec = spec.model_copy(update={name: plain})
    for kernels in (False, True):
        monkeypatch.setattr(precision, "runs_kernels", on_cuda if kernels else nowhere)
        expected = torch.bfloat16 if kernels else torch.float32
        assert encoder_dtype(spec, CUDA) is expected
        skipping = spec.model_copy(update={"skip_connection": True})
        assert encoder_dtype(skipping, CUDA) is expected
    with_auxk = plain.model_copy(update={"auxk_coefficient": 0.03})
    assert encoder_dtype(spec.model_copy(update={name: with_auxk}), CUDA) is torch.float32
