"""Names of places in a language model: ours (resid_post.8) and TransformerLens's."""

from __future__ import annotations

import re

_HOOKS = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
_SOURCES = {hook: name for name, hook in _HOOKS.items()}
_LENS = re.compile(r"blocks\.(\d+)\.(hook_\w+)")


def source_of(hook: str) -> str:
    """The source that a TransformerLens hook is, or the hook itself where we have no name."""
    match = _LENS.fullmatch(hook)
    if match is None or match[2] not in _SOURCES:
        return hook
    return f"{_SOURCES[match[2]]}.{match[1]}"


def hook_of(source: str) -> str:
    """The TransformerLens hook of a source, or the source itself where there is none."""
    name, _, layer = source.rpartition(".")
    return f"blocks.{layer}.{_HOOKS[name]}" if name in _HOOKS and layer.isdigit() else source


def layer_of(source: str) -> int | None:
    """The layer of a source, where its name says it."""
    layer = source.rpartition(".")[2]
    return int(layer) if layer.isdigit() else None
