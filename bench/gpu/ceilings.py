"""What the device does at best: copies, products, torch.topk, sorting, fused Adam."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from bench.gpu.lab import Lab, Record, Shape

KINDS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
MEASURED = ("S1", "S2", "S3")
LIBRARIES = ("torch", "triton", "numpy", "sae-lens", "dictionary-learning", "eai-sparsify")
CARD = "driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,power.limit"


def run(lab: Lab) -> None:
    """All of them, into lab.data["ceilings"]."""
    data: Record = {}
    lab.data["ceilings"] = data
    lab.attempt(data, "names", lambda: names(lab))
    lab.attempt(data, "copy", lambda: _copy(lab))
    for name in MEASURED:
        shape = lab.shapes[name]
        for kind in KINDS:
            lab.attempt(data, f"mm {name} {kind}", lambda s=shape, k=kind: _product(lab, s, k))
        lab.attempt(data, f"topk {name}", lambda s=shape: _topk(lab, s))
        lab.attempt(data, f"sort {name}", lambda s=shape: _sort(lab, s))
        lab.attempt(data, f"adam {name}", lambda s=shape: _adam(lab, s))
        lab.free()


def again(lab: Lab) -> None:
    """The first product once more at the end: a card that has become slower shows here."""
    data: Record = {}
    lab.data["ceilings again"] = data
    lab.attempt(data, "mm S1 fp16", lambda: _product(lab, lab.shapes["S1"], "fp16"))


def names(lab: Lab) -> Record:
    """The device, the driver and the versions of what matters."""
    found: Record = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{library: _version(library) for library in LIBRARIES},
    }
    if lab.cuda:
        total = torch.cuda.mem_get_info()[1]
        found |= {"device": torch.cuda.get_device_name(), "memory_GiB": total / 2**30}
        found["nvidia_smi"] = _card_state()
    return found


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _card_state() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={CARD}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(CARD.split(","), values, strict=True))


def _copy(lab: Lab) -> Record:
    a = torch.randn(2**16 if lab.tiny else 2**29, device=lab.device)
    b = torch.empty_like(a)
    found = lab.ms(lambda _: b.copy_(a))
    return found | {"GB_per_s": 2 * a.nbytes / found["ms"] / 1e6}


def _product(lab: Lab, shape: Shape, kind: str) -> Record:
    """x [B, d] times the transpose of W [m, d], whose rows are contiguous as the encoder's are."""
    device, dtype = lab.device, KINDS[kind]
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    try:
        x = [torch.randn(shape.batch, shape.d, device=device, dtype=dtype) for _ in range(2)]
        W = [torch.randn(shape.m, shape.d, device=device, dtype=dtype) for _ in range(2)]
        out = torch.empty(shape.batch, shape.m, device=device, dtype=dtype)
        found = lab.ms(lambda n: torch.mm(x[n % 2], W[n % 2].T, out=out))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    return found | {"TFLOP_per_s": 2 * shape.batch * shape.d * shape.m / found["ms"] / 1e9}


def _topk(lab: Lab, shape: Shape) -> Record:
    h = torch.randn(shape.batch, shape.m, device=lab.device, dtype=torch.bfloat16)
    return lab.ms(lambda _: h.topk(shape.k, dim=1))


def _sort(lab: Lab, shape: Shape) -> Record:
    """The chosen entries by latent, stably."""
    entries = shape.batch * shape.k
    keys = torch.randint(0, shape.m, (entries,), device=lab.device, dtype=torch.int32)
    return lab.ms(lambda _: torch.sort(keys, stable=True))


def _adam(lab: Lab, shape: Shape) -> Record:
    """torch's fused Adam on both weights: 28 bytes a parameter."""
    made = [torch.randn(shape.m, shape.d, device=lab.device) for _ in range(2)]
    parameters = [torch.nn.Parameter(tensor) for tensor in made]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def update(_: int) -> None:
        optimizer.step()  # pyright: ignore[reportUnknownMemberType] - torch's own types leave it out

    found = lab.ms(update)
    return found | {"GB_per_s": 28 * 2 * shape.m * shape.d / found["ms"] / 1e6}
