"""Names of places in a language model: ours (resid_post.8), TransformerLens's, and those of
transformers' modules."""

from __future__ import annotations

import re

_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "attn_z": "attn.hook_z",
}
_SOURCES = {hook: name for name, hook in _HOOKS.items()}
_LENS = re.compile(r"blocks\.(\d+)\.((?:attn\.|mlp\.)?hook_\w+)")
_OURS = re.compile(r"(\w+)\.(\d+)(?:\.head(\d+))?")
_HEAD = re.compile(r"(.+)\.head(\d+)")

_LAYER_LIST = re.compile(r"(?:[A-Za-z_]+\.)*(?:layers?|h|blocks)[._](\d+)(?:\.(.+))?")
_MODULE_OUTPUTS = {
    "": "resid_post",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attention": "attn_out",
}
_MODULE_INPUTS = {"": "resid_pre", "mlp": "mlp_in"}
_ENDS = {
    "output": "resid_post",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
    "post_attention_layernorm.output": "attn_out",
    "self_attn.o_proj.input": "attn_z",
}
"""In Gemma 3, whose norms stand between a module and the residual stream."""


def source_of(hook: str) -> str:
    """The source that a TransformerLens hook is, or the hook itself where we have no name."""
    match = _LENS.fullmatch(hook)
    if match is None or match[2] not in _SOURCES:
        return hook
    return f"{_SOURCES[match[2]]}.{match[1]}"


def head_of(source: str, head: int) -> str:
    """The source that is one head of another."""
    return f"{source}.head{head}"


def hook_of(source: str) -> tuple[str, int | None]:
    """The TransformerLens hook of a source, or the source itself where there is none; and the
    head, where it is one head of the hook."""
    match = _OURS.fullmatch(source)
    if match is not None and match[1] in _HOOKS:
        return f"blocks.{match[2]}.{_HOOKS[match[1]]}", _head(match[3])
    of_head = _HEAD.fullmatch(source)
    return (of_head[1], _head(of_head[2])) if of_head is not None else (source, None)


def layer_of(source: str) -> int | None:
    """The layer of a source, where its name says it."""
    match = re.search(r"\.(\d+)(?:\.|$)", source)
    return int(match[1]) if match is not None else None


def is_module(name: str) -> bool:
    """Whether a name is that of a decoder layer, of a module inside one, or of the embedding."""
    return name in ("embed_tokens", "embed_in", "wte") or _LAYER_LIST.fullmatch(name) is not None


def is_decoder_layer(name: str) -> bool:
    """Whether a name is that of a whole decoder layer."""
    match = _LAYER_LIST.fullmatch(name)
    return match is not None and match[2] is None


def module_output(name: str) -> str:
    """The source that a module's output is, by the module's name; or that name where we have none.

    Names are relative to the language model: layers.5, h.5.mlp, gpt_neox.layers.5.attention.
    """
    return _module_side(name, _MODULE_OUTPUTS) or name


def module_input(name: str) -> str:
    """The source that a module's input is."""
    return _module_side(name, _MODULE_INPUTS) or f"{name}.input"


def point_of(point: str) -> str:
    """The source of a module's named end, as Gemma Scope 2 writes it: model.layers.3.output."""
    match = _LAYER_LIST.fullmatch(point)
    ours = _ENDS.get(match[2] or "") if match is not None else None
    return f"{ours}.{match[1]}" if match is not None and ours is not None else point


def _head(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _module_side(name: str, names: dict[str, str]) -> str:
    match = _LAYER_LIST.fullmatch(name)
    ours = names.get(match[2] or "") if match is not None else None
    return f"{ours}.{match[1]}" if match is not None and ours is not None else ""
