"""Passes that begin above the layers which no edit changes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from saeserve.core.specs.sites import SiteSpec
from saeserve.harvest.layout import decoder_layers, first_tensor, with_tensor


def unchanged(writes: Sequence[SiteSpec]) -> int:
    """How many layers return the same whatever is written at these sites."""
    return min(site.layer + (site.hook == "resid_post") for site in writes)


@contextmanager
def kept(model: nn.Module, counts: Sequence[int]) -> Generator[dict[int, object]]:
    """What the last of each number of layers returns in a pass, by that number."""
    layers, outputs = decoder_layers(model), dict[int, object]()
    handles: list[RemovableHandle] = []

    def keep(count: int) -> None:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            outputs[count] = output

        handles.append(layers[count - 1].register_forward_hook(hook))

    for count in counts:
        if count:
            keep(count)
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def skipped(model: nn.Module, count: int, output: object) -> Generator[None]:
    """The first `count` layers compute nothing; each returns a copy of `output`, which the last
    of them returned in an earlier pass over the same tokens. Their hooks run as ever."""
    layers = decoder_layers(model)[:count]
    # An instance's `forward` stands before its class's; that of a wrapped layer is put back.
    before = [layer.__dict__.get("forward") for layer in layers]

    def forward(*_args: object, **_kwargs: object) -> object:
        return with_tensor(output, cast("Tensor", first_tensor(output)).clone())

    try:
        for layer in layers:
            cast("Any", layer).forward = forward
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if own is not None:
                cast("Any", layer).forward = own
