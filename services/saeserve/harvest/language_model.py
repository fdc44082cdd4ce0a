"""A causal language model: activations out; `harvest.splice` puts reconstructions in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from saeserve.core.ops.precision import ComputeType, chosen_dtype
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import SpecError
from saeserve.harvest.anatomy import Anatomy
from saeserve.harvest.final_norm import final_norm
from saeserve.harvest.layout import constant_rotation, decoder_layers, text_setting
from saeserve.harvest.loading import load_model, load_tokenizer
from saeserve.harvest.places import Edit, Place, place_of
from saeserve.harvest.precision import use_bfloat16
from saeserve.harvest.probe import study_layer
from saeserve.harvest.tokenizer import Tokenizer


class _AllCaptured(Exception):
    """Ends a forward pass once nothing that follows is needed; never leaves `capture`."""


class LanguageModel:
    """A model in evaluation mode on one device.

    Token batches are int64 [S, T], padded on the right with `PAD` (-1). The models are causal,
    so what stands to the right of a token, padding included, cannot change it.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, device: torch.device) -> None:
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.device = device
        self.layers = len(decoder_layers(model))
        self._anatomies: dict[int, Anatomy] = {}
        self.compute_dtype: Literal["float32", "bfloat16"] = "float32"
        """In which its linear layers and attention multiply."""

    @classmethod
    def load(
        cls,
        folder: Path,
        gguf_file: str | None,
        device: torch.device,
        compute_dtype: ComputeType = "auto",
    ) -> LanguageModel:
        """Load safetensors or GGUF weights from a local folder; no remote code, no pickles.

        `auto` multiplies in bfloat16 where the hardware does so natively, with the residual
        stream in float32. Raises SpecError naming the folder or file that cannot be used.
        """
        tokenizer = load_tokenizer(folder, gguf_file)
        model = load_model(folder, gguf_file)
        low = chosen_dtype(compute_dtype, device) is torch.bfloat16
        if low:
            use_bfloat16(model)
        loaded = cls(model, tokenizer, device)
        loaded.compute_dtype = "bfloat16" if low else "float32"
        return loaded

    @property
    def d(self) -> int:
        """Width of the residual stream."""
        return cast("int", self._config("hidden_size"))

    @property
    def unembedding(self) -> Tensor | None:
        """The output embedding with the linear part of the final norm in it, float32 [V, d]; None
        where the model has no output embedding of width d."""
        output = cast("nn.Module | None", cast("Any", self.model).get_output_embeddings())
        weight = None if output is None else output.weight
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != self.d:
            return None
        norm = final_norm(self.model, self.d)
        plain_VD = weight.detach().float()
        return plain_VD if norm is None else norm.folded(plain_VD)

    def width(self, site: SiteSpec) -> int:
        """Width of the rows of `site`. Raises SpecError where the model has no such site."""
        return self.place(site).d

    def place(self, site: SiteSpec) -> Place:
        """Where `site` is in the model. Raises SpecError for a layer or head that does not exist
        and for a site that this model's layer does not have."""
        if site.layer not in self._anatomies:
            self._anatomies[site.layer] = study_layer(self, site.layer)
        heads = cast("int | None", self._config("num_attention_heads"))
        return place_of(site, self._anatomies[site.layer], self.d, heads or 0)

    @property
    def positions(self) -> int | None:
        """The most tokens of a sequence; None where the model has no bound."""
        limits = (self._positions, constant_rotation(self.model))
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def _positions(self) -> int | None:
        limit = self._config("max_position_embeddings")
        return limit if isinstance(limit, int) else None

    def check_context(self, length: int) -> None:
        """Raise SpecError where sequences of `length` tokens exceed the model's positions."""
        limit = self._positions
        if limit is not None and length > limit:
            raise SpecError(
                "harvest.context_length",
                f"{length} exceeds the model's {limit} positions",
                remedy=f"choose at most {limit}",
            )
        turning = constant_rotation(self.model)
        if turning is not None and length > turning:
            raise SpecError(
                "harvest.context_length",
                f"{length} exceeds the {turning} positions up to which the model's rotary factors "
                "do not depend on the longest sequence of the batch",
                remedy=f"choose at most {turning}",
            )

    def capture(self, tokens_ST: Tensor, sites: Sequence[SiteSpec]) -> dict[str, Tensor]:
        """Activations by source name, float32 [S, T, d] on the model's device.

        The forward pass ends at the last site. Values at padded positions mean nothing.
        """
        captured: dict[str, Tensor] = {}

        def keep(source: str) -> Edit:
            def edit(x_STD: Tensor) -> None:
                # A copy: what follows in the layer may change the tensor in place.
                captured[source] = x_STD.detach().to(torch.float32, copy=True)
                if len(captured) == len(sites):
                    raise _AllCaptured

            return edit

        edits = [(self.place(site), keep(site.source)) for site in sites]
        with edited(edits, tokens_ST.shape):
            try:
                self.forward(tokens_ST)
            except _AllCaptured:
                return captured
        missing = [site.source for site in sites if site.source not in captured]
        raise SpecError(
            "sites", f"the forward pass did not reach {missing}", remedy="use resid_post"
        )

    @torch.no_grad()
    def forward(self, tokens_ST: Tensor) -> Tensor:
        """Logits [S, T, vocabulary]."""
        tokens = sent(tokens_ST, self.device).clamp(min=0)
        return self.model(input_ids=tokens, use_cache=False).logits

    def _config(self, name: str) -> object:
        return text_setting(self.model, name)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on `device`; the host does not wait for what that still computes."""
    if device.type == "cpu" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@contextmanager
def edited(edits: Sequence[tuple[Place, Edit]], shape: Sequence[int]) -> Generator[None]:
    """Hooks at the places, which are gone afterwards, however the pass ended."""
    handles: list[RemovableHandle] = []
    try:
        for place, edit in edits:
            handles += place.attach(edit, shape)
        yield
    finally:
        for handle in handles:
            handle.remove()
