"""What a model of dictionary_learning reads and writes, by its `config.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saeserve.core.peers import hooks
from saeserve.core.peers.files import JsonObject
from saeserve.core.peers.foreign import UNNAMED

_BOTH_ENDS = ("in_and_out", "in_to_out")
_NAMED = re.compile(
    r"(resid_pre|resid_mid|resid_post|resid_out|resid|mlp_in|mlp_out|mlp|attn_z|attn_out"
    r"|attention_out|attn)_?(?:layer_?)(\d+)"
)
_OURS = {
    "resid_out": "resid_post",
    "resid": "resid_post",
    "mlp": "mlp_out",
    "attention_out": "attn_out",
    "attn": "attn_out",
}
_INPUTS = {"resid_post": "resid_pre", "mlp_out": "mlp_in"}


@dataclass(frozen=True)
class Place:
    """Names of the input and, for a transcoder, of the output."""

    source: str
    target: str = ""


def find(config: JsonObject) -> Place:
    """By the trainer's `submodule_name` or, where it is missing, its `layer`, which is a residual
    layer's output in all of the library's scripts; and by the end that the buffer's `io` names.

    Raises FormatError for an `io` that no release has.
    """
    trainer, buffer = config.part("trainer"), config.part("buffer")
    out = _output(trainer)
    end = buffer.text("io", "out")
    if end == "out":
        return Place(out)
    if end == "in":
        return Place(_input(out))
    if end in _BOTH_ENDS:
        return Place(_input(out), "target" if out == UNNAMED else out)
    raise buffer.wrong("io", "is not imported")


def _output(trainer: JsonObject) -> str:
    named = trainer.optional_text("submodule_name")
    match = _NAMED.fullmatch(named)
    if match is not None:
        return f"{_OURS.get(match[1], match[1])}.{match[2]}"
    if named:
        return hooks.module_output(hooks.source_of(named))
    layer = trainer.values.get("layer")
    known = isinstance(layer, int) and not isinstance(layer, bool)
    return f"resid_post.{layer}" if known else UNNAMED


def _input(out: str) -> str:
    """What the module reads whose output is `out`."""
    if out == UNNAMED:
        return UNNAMED
    site, _, layer = out.partition(".")
    return f"{_INPUTS[site]}.{layer}" if site in _INPUTS else f"{out}.input"
