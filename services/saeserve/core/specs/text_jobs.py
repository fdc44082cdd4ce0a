"""The specs of jobs that run a data set's language model on given texts: generate and annotate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from saeserve.core.specs.base import refuse_together
from saeserve.core.specs.kind import KindSpec
from saeserve.core.specs.steering import EditsSpec, check_consistent
from saeserve.core.specs.training import Device, Name
from saeserve.errors import SpecError

MAX_TEXTS = 16
MAX_NEW_TOKENS = 256
"""With MAX_TEXTS, results stay small enough to be listed and sent with their job."""


class GenerateSpec(KindSpec, EditsSpec):
    """Has the data set's language model go on with prompts, as it is and steered."""

    model: str
    dataset: Name
    source: str | None = None
    prompts: tuple[str, ...] = Field(min_length=1, max_length=MAX_TEXTS)
    max_new_tokens: int = Field(default=32, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(default=0.0, ge=0, le=100)
    seed: int = Field(default=0, ge=0)
    positions: Literal["all", "generated"] = "all"
    position_start: int | None = Field(default=None, ge=0)
    position_stop: int | None = Field(default=None, ge=1)
    kv_cache: bool = True
    device: Device = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        refuse_together(
            lambda: check_consistent(self.edits, "generate.edits"), self._check_positions
        )
        return self

    def _check_positions(self) -> None:
        start, stop = self.position_start, self.position_stop
        if self.positions == "generated" and (start, stop) != (None, None):
            raise SpecError(
                "generate.positions",
                "is generated, and a slice of positions is given as well",
                remedy="leave positions out, or position_start and position_stop",
            )
        if stop is not None and (start or 0) >= stop:
            raise SpecError(
                "generate.position_stop",
                f"{start or 0}:{stop} holds no position",
                remedy="choose a position_stop above position_start",
            )


class AnnotateSpec(KindSpec):
    """Says for each token of some texts which features fire there."""

    model: str
    dataset: Name
    source: str | None = None
    texts: tuple[str, ...] = Field(min_length=1, max_length=MAX_TEXTS)
    features: int = Field(default=5, ge=1, le=64)
    long_texts: Literal["refuse", "split"] = "refuse"
    device: Device = "auto"
