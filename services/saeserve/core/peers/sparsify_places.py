"""What a sparsify model reads and writes: by its folder, its config, and the run's config above."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saeserve.core.peers import hooks, releases
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import UNNAMED
from saeserve.core.peers.readings import Unstated
from saeserve.errors import FormatError

RUN_CONFIG = "config.json"
_SEED = re.compile(r"seed\d+")
_OLD_LAYER = re.compile(r"layer_(\d+)(?:\.pt)?")


@dataclass(frozen=True)
class Place:
    """Names of the input and, for a transcoder, of the output; `details` for the lineage."""

    source: str
    target: str
    unstated: Unstated | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])


def find(files: ForeignFiles, config: JsonObject) -> Place:
    """By `cfg.json` and the folder, which the library names after the hooked module; by the run's
    `config.json`, which it writes above them. Raises FormatError for a wrong `cfg.json`."""
    folders = list(files.folders)
    depth = 2 if folders and _SEED.fullmatch(folders[-1]) else 1
    run = _run_config(files, depth)
    folders = folders[: len(folders) - depth + 1]
    hook = _hook(folders[-1] if folders else "", run)
    transcodes = _transcodes(config, run, folders[:-1])
    details = _details(hook, run)
    if transcodes:
        named = (
            (hooks.module_input(hook), hooks.module_output(hook)) if hook else (UNNAMED, "target")
        )
        return Place(*named, details=details)
    source = hooks.module_output(hook) if hook else UNNAMED
    unstated = _unstated(config, hook) if transcodes is None else None
    return Place(source, "", unstated, details)


def _transcodes(config: JsonObject, run: JsonObject | None, above: Sequence[str]) -> bool | None:
    """None where nothing says it. Before the key `transcode` only transcoders had skips."""
    if config.values.get("transcode") is not None:
        return config.flag("transcode", default=False)
    if config.flag("skip_connection", default=False):
        return True
    if run is not None and run.values.get("transcode") is not None:
        return run.flag("transcode", default=False)
    if "activation" in config.values or "skip_connection" not in config.values:
        return False
    kind = releases.sparsify_kind(above)
    return None if not kind else kind == "transcoder"


def _unstated(config: JsonObject, hook: str) -> Unstated | None:
    """Between November 2024 and February 2025. Nobody transcodes whole decoder layers."""
    return Unstated(
        f"{config.where} has `skip_connection` and no `transcode`: sparsify of November 2024 to "
        f"February 2025 wrote it for autoencoders and transcoders alike, and the run's "
        f"{RUN_CONFIG}, which tells them apart, is not in the folder above",
        refused=not hooks.is_decoder_layer(hook),
    )


def _hook(folder: str, run: JsonObject | None) -> str:
    """The hooked module's name; empty where the folder is not named after one."""
    old = _OLD_LAYER.fullmatch(folder)
    if old is not None:
        return f"layers.{old[1]}"
    if hooks.is_module(folder):
        return folder
    points: object = run.values.get("hookpoints") if run is not None else None
    only = points[0] if isinstance(points, list) and len(points) == 1 else ""  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
    return only if isinstance(only, str) else ""


def _run_config(files: ForeignFiles, depth: int) -> JsonObject | None:
    """The run's config, known by its parts: whatever else is called so there is somebody else's
    file, be it unreadable."""
    path = files.above(depth, RUN_CONFIG)
    if path is None:
        return None
    try:
        run = read_json(path)
    except FormatError:
        return None
    return run if isinstance(run.values.get("sae"), dict) else None


def _details(hook: str, run: JsonObject | None) -> dict[str, object]:
    details: dict[str, object] = {"hook_name": hook} if hook else {}
    if run is not None:
        details["run_config"] = dict(run.values)
    return details
