"""A toy architecture in the five pieces that an architecture is made of.

ReLU with a penalty that grows as the logarithm of each feature: made up for the test, so that no
other code can know of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CORE = "services/saeserve/core"
SPEC = '''"""The spec of the toy."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from saeserve.core.specs.architectures.base import PenaltySpec


class ToySpec(PenaltySpec):
    """ReLU with the penalty lambda sum_i log(1 + f_i)."""

    name: ClassVar[str] = "toy"

    sparsity_coefficient: float = Field(default=0.5, ge=0)
'''
LOSS = '''"""The toy: f = ReLU(W_enc x + b_enc), penalty lambda sum_i log(1 + f_i)."""

from __future__ import annotations

from torch import Tensor

from saeserve.core.architectures import auxk, penalty
from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, Dimensions, LossOutput, Tensors
from saeserve.core.architectures.initialisation import unit_dictionaries
from saeserve.core.specs.architectures.toy import ToySpec


class Toy(Architecture[ToySpec]):
    """See the module's formulas."""

    def scheduled(self, spec: ToySpec, step: int, steps: int) -> dict[str, float]:
        """lambda, the same in all steps."""
        return {penalty.WEIGHT: spec.sparsity_coefficient}

    def initialise(
        self, spec: ToySpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Random unit rows, alike in an autoencoder; biases 0."""
        units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        b_enc, b_dec = sample_ND.new_zeros(dims.d_sae), sample_ND.new_zeros(dims.d_out)
        return {**units, "b_enc": b_enc, "b_dec": b_dec}, {}

    def loss(
        self, spec: ToySpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^|^2 and of the penalty."""
        h_BF = batch.x_BD @ params["W_enc"].T + params["b_enc"]
        f_BF = h_BF.relu()
        residual_BO = batch.target_BO - (f_BF @ params["W_dec"] + params["b_dec"])
        squared_error, rows = residual_BO.square().sum(), len(batch.x_BD)
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": penalty.weight(spec, ctx) * f_BF.log1p().sum() / rows,
            **auxk.dense_term(spec, h_BF, residual_BO, params["W_dec"], ctx.dead_F),
        }
        return LossOutput.of(terms, state, f_BF, squared_error)
'''
MESSAGE = """
// ReLU with a logarithmic penalty.
message ToySpec {
  // Weight of the penalty (lambda).
  optional double sparsity_coefficient = 1;
  // Latents that AuxK takes.
  optional int64 k_aux = 2;
  // Weight of AuxK.
  optional double auxk_coefficient = 3;
}
"""
PIECES = {
    f"{CORE}/specs/architectures/toy.py",
    f"{CORE}/specs/training.py",
    f"{CORE}/architectures/toy.py",
    f"{CORE}/architectures/registry.py",
    "protos/saeserve/v1/spec.proto",
    "tests/golden/toy.txt",
}
"""The files that adding it writes: a spec and its field, a loss, a line, a case, a curve."""
GENERATED = {"services/saeserve/v1/spec_pb2.py"}


def add(root: Path) -> None:
    """Write all pieces but the golden curve below `root`, a copy of the repository."""
    (root / CORE / "specs/architectures/toy.py").write_text(SPEC)
    _insert(
        root / CORE / "specs/training.py",
        ("from saeserve.core.specs.base import", f"from {_module('specs')} import ToySpec\n"),
        ("    d_sae: int =", "    toy: ToySpec | None = None\n"),
    )
    (root / CORE / "architectures/toy.py").write_text(LOSS)
    _insert(
        root / CORE / "architectures/registry.py",
        ("from saeserve.errors import", f"from {_module()} import Toy\n"),
        ('    "matryoshka"', '    "toy": Toy(),\n'),
    )
    proto = root / "protos/saeserve/v1/spec.proto"
    _insert(proto, ("    MatryoshkaSpec matryoshka", "    ToySpec toy = 999;\n"))
    proto.write_text(proto.read_text() + MESSAGE)
    _generate(root, proto)


def _module(room: str = "") -> str:
    return ".".join(filter(None, ("saeserve.core", room, "architectures.toy")))


def _insert(path: Path, *edits: tuple[str, str]) -> None:
    """Put a line before the one line that begins with each marker."""
    text = path.read_text()
    for marker, line in edits:
        before, found, after = text.partition(f"\n{marker}")
        assert found, marker
        text = f"{before}\n{line}{found[1:]}{after}"
    path.write_text(text)


def _generate(root: Path, proto: Path) -> None:
    """What `make protos` does for this file; stubs for mypy are of no use here."""
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Iprotos"),
            *("--python_out=services", str(proto.relative_to(root))),
        ],
        cwd=root,
        check=True,
    )
