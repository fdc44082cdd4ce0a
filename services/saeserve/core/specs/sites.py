"""The places in a language model where activations are taken, and their names."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from saeserve.core.specs.base import Spec
from saeserve.errors import SpecError

Hook = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_in", "attn_z"]
"""resid_pre, resid_mid and resid_post: the residual stream before, within and after the layer;
attn_out and mlp_out: what attention and MLP add to it; mlp_in: what the MLP reads, after its norm;
attn_z: what the attention heads return, side by side, before the output projection."""


class SiteSpec(Spec):
    """A place in the language model where activations are taken."""

    hook: Hook = "resid_post"
    layer: int = Field(ge=0)
    head: int | None = Field(default=None, ge=0)
    """One head of attn_z; None takes all heads."""

    @property
    def source(self) -> str:
        """Name of the source in the data set: resid_post.8, attn_z.8, attn_z.8.head3."""
        name = f"{self.hook}.{self.layer}"
        return name if self.head is None else f"{name}.head{self.head}"

    @model_validator(mode="after")
    def _head_of_attention(self) -> Self:
        if self.head is not None and self.hook != "attn_z":
            raise SpecError(
                "sites.head", f"{self.hook} has no heads", remedy="set hook = attn_z, or no head"
            )
        return self
