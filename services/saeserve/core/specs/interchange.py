"""The specs of jobs that exchange models with other libraries."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from saeserve.core.specs.base import Spec
from saeserve.core.specs.kind import KindSpec
from saeserve.core.specs.training import Name
from saeserve.errors import SpecError

ExportFormat = Literal["saelens", "dictionary_learning", "sparsify"]
ImportFormat = Literal[
    "saeserve",
    "saelens",
    "dictionary_learning",
    "sparsify",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
    "openai",
]


class ReferenceSpec(Spec):
    """What the foreign model makes of some rows: .npy files, root:relative or in an upload.

    `activations` [rows, d_in], `features` [rows, d_sae], `reconstruction` [rows, d_out]; features
    in the foreign model's units. `tolerance` is relative to the largest value of a row.
    """

    activations: str
    features: str | None = None
    reconstruction: str | None = None
    tolerance: float = Field(default=1e-4, gt=0, lt=1)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.features is None and self.reconstruction is None:
            raise SpecError(
                "import_model.reference",
                "gives activations but neither features nor a reconstruction of them",
                remedy="add features or reconstruction, or leave the reference out",
            )
        return self


class ImportModelSpec(KindSpec):
    """Publishes a model from files of another library or deployment; paths are root:relative or in
    an upload.

    `source` and `target` name what it reads and writes where the files should not; a target equal
    to the source says that it is an autoencoder, where the files leave that open.
    """

    model: Name
    format: ImportFormat
    path: str
    source: str | None = Field(default=None, min_length=1)
    target: str | None = Field(default=None, min_length=1)
    reference: ReferenceSpec | None = None

    @property
    @override
    def l0_by_model(self) -> dict[str, float | None]:
        return {self.model: None}

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that the job reads."""
        if self.reference is None:
            return (self.path,)
        reference = self.reference
        rows = (reference.activations, reference.features, reference.reconstruction)
        return (self.path, *(path for path in rows if path is not None))


class ExportModelSpec(KindSpec):
    """Writes a published model as another library's files, into the store."""

    model: str
    format: ExportFormat
