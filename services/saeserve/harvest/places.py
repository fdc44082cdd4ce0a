"""Where a forward pass holds the values of a site, to be read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import SpecError
from saeserve.harvest.anatomy import Anatomy
from saeserve.harvest.layout import first_tensor, with_tensor
from saeserve.harvest.recording import Args, Kwargs, by_position, find_input

Edit = Callable[[Tensor], Tensor | None]
"""From a site's values [S, T, d] to those that stand in for them; None leaves them."""


@dataclass(frozen=True)
class Place:
    """A side of a module, and how its values become the site's."""

    module: nn.Module
    side: Literal["input", "output"]
    d: int
    """Width of the site."""
    scale: float = 1.0
    """The site's values are the module's times this."""
    first_column: int = 0
    """First of the module's columns that are the site's; there are `d`."""
    onto: nn.Module | None = None
    """The layer whose input is added to the module's values: resid_mid."""

    def attach(self, edit: Edit, shape: Sequence[int]) -> list[RemovableHandle]:
        """Hooks that give the site's values in every pass over tokens of `shape` to `edit`."""
        if self.side == "input":
            before = self._on_input(edit, shape)
            return [self.module.register_forward_pre_hook(before, with_kwargs=True)]
        stream: list[Tensor] = []
        handles = [] if self.onto is None else [_keep_input(self.onto, stream)]
        after = self._on_output(edit, shape, stream)
        return [*handles, self.module.register_forward_hook(after)]

    def _on_input(self, edit: Edit, shape: Sequence[int]) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Args, kwargs: Kwargs) -> object:
            key, old = find_input(args, kwargs)
            new = self._edited(old, edit, shape, None)
            if new is None:
                return None
            if isinstance(key, str):
                return args, {**kwargs, key: new}
            return (*args[:key], new, *args[key + 1 :]), kwargs

        return hook

    def _on_output(
        self, edit: Edit, shape: Sequence[int], stream: list[Tensor]
    ) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: object, output: object) -> object:
            old = first_tensor(output)
            below = stream.pop() if stream else None
            new = None if old is None else self._edited(old, edit, shape, below)
            return None if new is None else with_tensor(output, new)

        return hook

    def _edited(
        self, old: Tensor, edit: Edit, shape: Sequence[int], below: Tensor | None
    ) -> Tensor | None:
        """The module's values once the site's were edited; None for no change."""
        rows_STD = cast("Tensor", by_position(old, shape))
        columns = slice(self.first_column, self.first_column + self.d)
        value = rows_STD[..., columns]
        scaled = value if self.scale == 1.0 else value * self.scale
        site = scaled if below is None else below + scaled
        new = edit(site)
        if new is None:
            return None
        result = rows_STD.clone()
        if scaled is value and below is None:
            result[..., columns] = new
        else:  # Values that were left as they are stay so bit by bit.
            changed = value + (new - site) / self.scale
            result[..., columns] = torch.where(new == site, value, changed)
        return result.reshape(old.shape)


def _keep_input(layer: nn.Module, stream: list[Tensor]) -> RemovableHandle:
    def hook(_module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        stream[:] = [find_input(args, kwargs)[1]]

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def place_of(site: SiteSpec, anatomy: Anatomy, d: int, heads: int) -> Place:
    """The place of `site` in the layer that `anatomy` describes; `d` is the width of the stream.

    Raises SpecError, naming the site and the reason, where the layer has no such place.
    """
    if not anatomy.once:
        raise _refused(site, "the layer does not take and return the residual stream once a pass")
    if site.hook in {"resid_pre", "resid_post"}:
        return Place(anatomy.layer, "input" if site.hook == "resid_pre" else "output", d)
    if site.hook in {"attn_out", "mlp_out", "resid_mid"}:
        return _added(site, anatomy, d)
    if site.hook == "attn_z":
        return _heads(site, anatomy, heads)
    if anatomy.mlp_in is None:
        raise _refused(site, _NO_SUM)
    return Place(anatomy.mlp_in, "input", d)


_NO_SUM = (
    "no module's output is what its attention or MLP adds to the residual stream "
    "(resid_pre + attn_out + mlp_out = resid_post was looked for on a few tokens)"
)


def _added(site: SiteSpec, anatomy: Anatomy, d: int) -> Place:
    term = anatomy.mlp if site.hook == "mlp_out" else anatomy.attn
    if term is None:
        raise _refused(site, _NO_SUM)
    if site.hook != "resid_mid":
        return Place(term.module, "output", d, term.scale)
    if not anatomy.sequential:
        raise _refused(site, "attention and MLP read the same stream, side by side")
    return Place(term.module, "output", d, term.scale, onto=anatomy.layer)


def _heads(site: SiteSpec, anatomy: Anatomy, heads: int) -> Place:
    width = anatomy.z_width
    if anatomy.attn_z is None or not heads or width % heads:
        raise _refused(site, "no linear map of its attention takes the heads' outputs side by side")
    if site.head is None:
        return Place(anatomy.attn_z, "input", width)
    if site.head >= heads:
        raise SpecError(
            "sites.head",
            f"head {site.head} does not exist: the layer has {heads} heads",
            remedy=f"choose 0 to {heads - 1}",
        )
    size = width // heads
    return Place(anatomy.attn_z, "input", size, first_column=site.head * size)


def _refused(site: SiteSpec, why: str) -> SpecError:
    residual = site.hook in {"resid_pre", "resid_post"}
    return SpecError(
        "sites.hook",
        f"{site.source} cannot be taken from this model: {why}",
        remedy="use another model" if residual else "use resid_pre or resid_post",
    )
