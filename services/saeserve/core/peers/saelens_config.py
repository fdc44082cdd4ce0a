"""SAELens's `cfg.json` of any release, in the form of release 6.

Releases 1 and 2 wrote the whole training config (`hook_point`, `activation_fn`, a flag
`normalize_activations`), 3 to 5 a flat config of the SAE (`hook_name`, `activation_fn_str` or
`activation_fn`, `finetuning_scaling_factor`); 6 keeps what is not of the function in `metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from saeserve.core.peers import hooks
from saeserve.core.peers.files import JsonObject
from saeserve.core.peers.foreign import UNNAMED

FIRST_WITH_METADATA = 6
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
}
_METADATA = (
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "hook_name_out",
    "hook_head_index_out",
    "sae_lens_version",
    "training_architecture",
)
_TRANSCODER_HINTS = (
    "hook_name_out",
    "hook_point_out",
    "out_hook_point",
    "hook_layer_out",
    "hook_point_layer_out",
    "out_hook_point_layer",
    "is_transcoder",
)
_TOPK_OPTIONS = ("k", "signed")


def modern(config: JsonObject) -> JsonObject:
    """The config in the form of release 6, whatever wrote it.

    Raises FormatError for activation functions that no architecture of ours has.
    """
    if major(config) >= FIRST_WITH_METADATA:
        return config
    values = {_RENAMED.get(key, key): value for key, value in config.values.items()}
    values |= _activation(JsonObject(values, config.where))
    norm = values.get("normalize_activations")
    if isinstance(norm, bool):
        values["normalize_activations"] = "expected_average_only_in" if norm else "none"
    values["hook_name"] = _hook(values)
    known = {key: values[key] for key in _METADATA if values.get(key) is not None}
    values["metadata"] = {**config.part("metadata").values, **known}
    return JsonObject(values, config.where)


def version(config: JsonObject) -> str:
    """The release that wrote the config; "" where it does not say (1, 2 and some of 3)."""
    return config.part("metadata").optional_text("sae_lens_version") or config.optional_text(
        "sae_lens_version"
    )


def major(config: JsonObject) -> int:
    """Major version of the release that wrote the config; 0 if not stated. Raises FormatError."""
    number = version(config).partition(".")[0] or "0"
    if not number.isdigit():
        raise config.wrong("sae_lens_version", "is not a release")
    return int(number)


def writer(config: JsonObject) -> str:
    """For the lineage."""
    said = version(config) or config.optional_text("sae_lens_training_version")
    return f"SAELens {said}" if said else "SAELens before 6, which does not say its release"


def check_is_autoencoder(config: JsonObject) -> None:
    """Raise FormatError for what tells of another output than the input: forks of SAELens trained
    transcoders whose config has no architecture of their own."""
    for part in (config, config.part("metadata")):
        for key in _TRANSCODER_HINTS:
            value = part.values.get(key)
            if value not in (None, False, "") and value != part.values.get("hook_name"):
                raise part.wrong(
                    key, f"is of a transcoder, and {_architecture(config)!r} is an autoencoder"
                )
    if config.values.get("d_out") not in (None, config.values.get("d_in")):
        raise config.wrong("d_out", f"is not d_in, and {_architecture(config)!r} is an autoencoder")


def source(config: JsonObject, *, out: bool = False) -> str:
    """Our name for the place that is read, or written, head included; "" where none is named."""
    suffix = "_out" if out else ""
    metadata = config.part("metadata")
    hook = metadata.optional_text(f"hook_name{suffix}")
    if not hook:
        layer = metadata.values.get(f"hook_layer{suffix}")
        return f"layer.{layer}" if isinstance(layer, int) else ""
    name = hooks.source_of(hook)
    head = metadata.values.get(f"hook_head_index{suffix}")
    if head is None:
        return name
    if not isinstance(head, int) or isinstance(head, bool) or head < 0:
        raise metadata.wrong(f"hook_head_index{suffix}", "is not an index of a head")
    return hooks.head_of(name, head)


def input_source(config: JsonObject) -> str:
    """The place that is read."""
    return source(config) or UNNAMED


def _architecture(config: JsonObject) -> str:
    return config.text("architecture", "standard")


def _activation(config: JsonObject) -> dict[str, object]:
    """`architecture` and `k` as release 6 has them; top-k was an activation of the standard one.

    `signed` comes from sparsify: the k largest by magnitude, signs kept.
    """
    name = config.optional_text("activation_fn_str") or config.text("activation_fn", "relu")
    key = "activation_fn_str" if config.values.get("activation_fn_str") else "activation_fn"
    architecture = _architecture(config)
    if name not in ("relu", "topk"):
        raise config.wrong(key, "is not imported (relu and topk are)")
    options = config.part("activation_fn_kwargs")
    for option in sorted(set(options.values) - set(_TOPK_OPTIONS)):
        raise options.wrong(option, "is an option that no release has")
    if name == "relu" and architecture != "topk":
        return {"architecture": architecture}
    if architecture not in ("standard", "topk"):
        raise config.wrong(key, f"does not go with the architecture {architecture!r}")
    k = options.values.get("k") or config.values.get("k")
    signed = options.flag("signed", default=False)
    return {"architecture": "abstopk" if signed else "topk", "k": k}


def _hook(values: Mapping[str, Any]) -> str | None:
    """Releases 1 and 2 could leave the layer as a place in the text."""
    hook, layer = values.get("hook_name"), values.get("hook_layer")
    if isinstance(hook, str) and isinstance(layer, int):
        return hook.replace("{layer}", str(layer))
    return cast("str | None", hook)
