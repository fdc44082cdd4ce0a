"""What the folders of published releases say where their files do not.

Only whole names of folders in the places that a release gives them count, nearest first: a word
somewhere in a path decides nothing, since the folders around a release are anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GEMMA = re.compile(
    r"(?:^|[-_.])gemma-scope-(?:\d+b)-(?:pt|it)-(res|mlp|att|transcoders)(?:$|[-_.])"
)
_LAYER = re.compile(r"layer_(\d+)")
_WIDTH = re.compile(r"width_\d+[km]")
_GEMMA_2 = re.compile(r"layer_(\d+)_width_\d+[km]_l0_(?:small|medium|big)(_affine)?")
_GEMMA_2_SITES = re.compile(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?")
_OPENAI = re.compile(
    r"(mlp_post_act|resid_delta_attn|resid_delta_mlp|resid_post_attn|resid_post_mlp)(?:_v\w+)?"
)
_OPENAI_SITES = {
    "mlp_post_act": "blocks.{}.mlp.hook_post",
    "resid_delta_attn": "attn_out.{}",
    "resid_delta_mlp": "mlp_out.{}",
    "resid_post_attn": "resid_mid.{}",
    "resid_post_mlp": "resid_post.{}",
}
_SPARSIFY = re.compile(r"(?:models--[\w.-]+?--)?(skip-transcoder|transcoder|sae)-.+")


@dataclass(frozen=True)
class GemmaScope:
    """What the folder of a Gemma Scope file says; empty where it does not."""

    source: str = ""
    target: str = ""
    embedding: bool = False
    release: str = ""
    """res, mlp, att or transcoders."""


def gemma_scope(parts: Sequence[str]) -> GemmaScope:
    """By <release>/layer_8/width_16k/average_l0_71; the release is the nearest folder of that name.

    Without one, only what stands above a width, last or before one more folder, counts.
    """
    found = [(at, m[1]) for at, part in enumerate(parts) if (m := _GEMMA.search(part))]
    at, release = found[-1] if found else (-1, "")
    inside = parts[at + 1 :] if release else _above_width(parts)
    if "embedding" in inside:
        return GemmaScope(source="embedding", embedding=True, release=release)
    layer = next((m[1] for part in inside if (m := _LAYER.fullmatch(part))), "")
    return _site(release, layer)


def gemma_scope_2(parts: Sequence[str]) -> tuple[str, int, bool] | None:
    """Site, layer and whether with a skip connection, by resid_post/layer_9_width_16k_l0_small."""
    if len(parts) < 2:
        return None
    site, rest = _GEMMA_2_SITES.fullmatch(parts[-2]), _GEMMA_2.fullmatch(parts[-1])
    if site is None or rest is None:
        return None
    return site[1], int(rest[1]), rest[2] is not None


def openai(parts: Sequence[str]) -> str:
    """The source, by resid_post_mlp_v5_32k/autoencoders/8.pt; empty where the path is another."""
    if len(parts) < 3 or parts[-2] != "autoencoders":
        return ""
    layer, suffix = parts[-1].partition(".")[::2]
    site = _OPENAI.fullmatch(parts[-3])
    if site is None or suffix != "pt" or not layer.isdigit():
        return ""
    return _OPENAI_SITES[site[1]].format(layer)


def sparsify_kind(parts: Sequence[str]) -> str:
    """transcoder or sae, by the name of the release above the hook's folder; empty elsewhere.

    The release is the folder itself, or above snapshots/<revision> in the Hub's cache.
    """
    if len(parts) >= 3 and parts[-2] == "snapshots":
        parts = parts[:-2]
    match = _SPARSIFY.fullmatch(parts[-1]) if parts else None
    return "" if match is None else match[1].removeprefix("skip-")


def _above_width(parts: Sequence[str]) -> Sequence[str]:
    for at in (len(parts) - 1, len(parts) - 2):
        if at >= 1 and _WIDTH.fullmatch(parts[at]):
            return parts[at - 1 : at]
    return ()


def _site(release: str, layer: str) -> GemmaScope:
    """Transcoders read the MLP's normed input before the norm's gain, which was folded into the
    MLP (arXiv 2408.05147, appendix): no input of a module of the language model as published."""
    if release == "transcoders":
        names = (f"blocks.{layer}.ln2.hook_normalized", f"mlp_out.{layer}")
        source, target = names if layer else ("", "target")
        return GemmaScope(source=source, target=target, release=release)
    site = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_z"}.get(release, "layer")
    return GemmaScope(source=f"{site}.{layer}" if layer else "", release=release)
