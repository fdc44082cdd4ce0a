"""`saeserve encode|decode|reconstruct`: what a model makes of the rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from saeserve.cli.output import Json, connect, console, print_json, say, told
from saeserve.cli.refusals import writing
from saeserve.cli.tables import print_table
from saeserve.client import SparseFeatures
from saeserve.client.array_files import read_rows
from saeserve.client.arrays import ArrayInput
from saeserve.client.feature_inputs import features_of

Array = NDArray[Any]
RowNumbers = NDArray[np.int64]
SHOWN_ROWS = 20
ROWS = (
    "Raw activations, [..., d_in]: a .npy file, or a .safetensors file of one tensor; float16, "
    "bfloat16, float32 or float64, as for datasets import."
)

FEATURES = (
    "Features: what saeserve encode --out wrote or --json printed, or dense ones, [..., d_sae], as "
    ".npy or .safetensors."
)

Reference = Annotated[str, typer.Argument(help="name, name@3 or name@alias.")]
Rows = Annotated[Path, typer.Argument(help=ROWS)]
Written = Annotated[Path, typer.Option("--out", "-o", help=".npy file to write, [..., d_out].")]


def encode(
    reference: Reference,
    file: Rows,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write model and CSR arrays here, as .npz.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Features shown for each row.")] = 8,
    as_json: Json = False,
) -> None:
    """Encode activations from a file into sparse features."""
    rows = read_rows(file)
    if out is None:
        features = _encoded(reference, rows)
    else:
        with writing(out) as part:
            features = _encoded(reference, rows)
            features.save(part)
    if as_json:
        print_json(features)
    else:
        _show(features, top)


def decode(
    reference: Reference,
    file: Annotated[Path, typer.Argument(help=FEATURES)],
    out: Written,
    as_json: Json = False,
) -> None:
    """Decode features from a file into activations."""
    features = features_of(file)
    with writing(out) as part:
        with connect() as client:
            rows = client.decode(reference, features)
        _save(part, rows)
    _told_of(reference, rows, out, as_json)


def reconstruct(reference: Reference, file: Rows, out: Written, as_json: Json = False) -> None:
    """Encode activations from a file and decode them again."""
    given = read_rows(file)
    with writing(out) as part:
        with connect() as client:
            rows = client.reconstruct(reference, given)
        _save(part, rows)
    _told_of(reference, rows, out, as_json, rows.beyond_norm_bound)


def _encoded(reference: str, rows: ArrayInput) -> SparseFeatures:
    with connect() as client:
        return client.encode(reference, rows)


def _save(part: Path, rows: Array) -> None:
    with part.open("wb") as stream:
        np.save(stream, rows)


def _told_of(
    reference: str, rows: Array, out: Path, as_json: bool, beyond: RowNumbers | None = None
) -> None:
    shape = list(rows.shape)
    value: dict[str, object] = {"model": reference, "shape": shape, "out": out}
    value |= {} if beyond is None else {"beyond_norm_bound": beyond}
    told(f"{reference}: {shape} {rows.dtype} written to {out}", value, as_json)
    if not as_json:
        _say_beyond(beyond)


def _show(features: SparseFeatures, top: int) -> None:
    console.print(f"{features.model}: {features.rows} rows, l0 {features.l0:.1f}", highlight=False)
    _say_beyond(features.beyond_norm_bound)
    print_table(("row", "feature=value"), _strongest(features, top))
    if features.rows > SHOWN_ROWS:
        say(f"the first {SHOWN_ROWS} of {features.rows:,} rows; --out FILE writes them all")


def _say_beyond(rows: RowNumbers | None) -> None:
    """Name the rows beyond the model's norm bound, where there are any."""
    beyond = [] if rows is None else [int(row) for row in rows]
    if beyond:
        first = ", ".join(map(str, beyond[:SHOWN_ROWS])) + (", …" if beyond[SHOWN_ROWS:] else "")
        say(f"{len(beyond)} rows have a larger norm than the model was trained on: {first}")


def _strongest(features: SparseFeatures, top: int) -> Iterator[tuple[int, str]]:
    """The strongest features of the first rows."""
    for row in range(min(features.rows, SHOWN_ROWS)):
        indices, values = features.row(row)
        order = np.argsort(-values, kind="stable")[:top]
        yield row, "  ".join(f"{indices[i]}={values[i]:.3g}" for i in order)
