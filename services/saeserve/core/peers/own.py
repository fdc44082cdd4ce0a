"""A version that another deployment published: `config.json`, `model.safetensors`, and the
`manifest.json` of its store where it came along."""

from __future__ import annotations

import hashlib
import math

import torch

from saeserve.core.export.format import read_config, read_tensors, tensor_shapes
from saeserve.core.formats.model import CONFIG_FILE, TENSOR_FILE, Lineage
from saeserve.core.peers.files import ForeignFiles, read_json
from saeserve.core.peers.foreign import Imported
from saeserve.errors import DamagedError, FormatError

FORMAT = "saeserve"
MANIFEST = "manifest.json"


def read(files: ForeignFiles, source: str | None = None, target: str | None = None) -> Imported:
    """The model as it is, with its figures, its warnings and the spec that it was trained with.

    Raises DamagedError for a file whose sha256 is not that of the manifest, and FormatError for
    sites that are named by the caller, since the config names them.
    """
    if source is not None or target is not None:
        raise FormatError(
            "the files of saeserve say what the model reads and writes",
            remedy="leave source and target out",
        )
    _check_manifest(files)
    config = read_config(files.file(CONFIG_FILE))
    files.admit(sum(math.prod(shape) for shape in tensor_shapes(config).values()))
    lineage = config.lineage.model_copy(update={"spec": _history(config.lineage)})
    known = config.model_copy(update={"lineage": lineage})
    model = read_tensors(files.file(TENSOR_FILE), known)
    return Imported(model, torch.ones(config.d_sae, dtype=torch.float64))


def _history(lineage: Lineage) -> dict[str, object]:
    """What made it there, and that it came from there; an earlier import's own job is left out."""
    made = {name: value for name, value in lineage.spec.items() if name != "import_model"}
    writer = f"saeserve {lineage.code_version}".strip()
    return {"imported_from": FORMAT, "writer": writer, **made}


def _check_manifest(files: ForeignFiles) -> None:
    """The card is left out: on the Hub people edit it."""
    if not (files.resolve("") / MANIFEST).is_file():
        return
    listed = read_json(files.file(MANIFEST)).part("files")
    for name in (CONFIG_FILE, TENSOR_FILE):
        expected = listed.part(name).text("sha256")
        with files.file(name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise DamagedError(
                    f"{name} does not have the sha256 that {MANIFEST} says",
                    remedy="copy the model again, or publish it again where it was made",
                )
