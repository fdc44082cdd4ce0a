"""`saeserve steer|annotate`: rows or texts moved by edits of features; the features of texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from saeserve.cli.edits import Ablate, Add, Clamp, Edit, Scale, SetTo, edits_of
from saeserve.cli.output import Json, connect, console, print_json, say, told
from saeserve.cli.refusals import reading, refused, writing
from saeserve.cli.serving import ROWS, Reference
from saeserve.cli.tables import print_table
from saeserve.client.array_files import read_rows

Dataset = Annotated[
    str | None,
    typer.Option(help="Harvested data set whose language model runs; left out, the model's own."),
]


def steer(
    reference: Reference,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to go on with; may be repeated.")
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(help=f"Move these rows in place of texts. {ROWS}")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="With --activations of a transcoder: rows it writes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --activations: .npy file to write.")
    ] = None,
    add: Add = None,
    set_: SetTo = None,
    scale: Scale = None,
    clamp: Clamp = None,
    ablate: Ablate = None,
    dataset: Dataset = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to write, 32.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most probable token.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws, one for both texts.")] = None,
    positions: Annotated[
        str | None, typer.Option(help="Where to steer: all, or generated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move features, and see what a language model writes, or what becomes of rows of a file.

    Edits are made in the order add, set, scale, clamp, ablate.
    """
    edits = edits_of({"add": add, "set": set_, "scale": scale}, clamp, ablate)
    if (activations is None) == (not prompt):
        raise refused(
            "either --prompt or --activations is needed",
            field="prompt",
            remedy="give --prompt TEXT, or --activations FILE --out FILE",
        )
    if activations is not None:
        _steer_rows(reference, activations, target, edits, out, as_json)
        return
    with connect() as client:
        found = client.generate(
            reference,
            prompt or (),
            edits,
            dataset=dataset,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            positions=positions,
        )
    if as_json:
        print_json(found)
        return
    for each in found:
        _show_texts(each)


def annotate(
    reference: Reference,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text in a file, UTF-8.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Features shown for each token.")] = 5,
    split: Annotated[
        bool, typer.Option(help="Cut texts that are longer than the data set's contexts.")
    ] = False,
    dataset: Dataset = None,
    as_json: Json = False,
) -> None:
    """Show which features fire on each token of a text."""
    texts = list(text or ())
    if file is not None:
        with reading(file, "a text"):
            texts.append(file.read_text(encoding="utf-8"))
    if not texts:
        raise refused("there is no text", field="texts", remedy="give --text TEXT or --file FILE")
    with connect() as client:
        found = client.annotate(
            reference,
            texts,
            dataset=dataset,
            features=top,
            long_texts="split" if split else None,
        )
    if as_json:
        print_json(found)
        return
    for each in found:
        print_table(("token", "feature=value"), (_token(token) for token in each["tokens"]))


def _steer_rows(
    reference: str,
    activations: Path,
    target: Path | None,
    edits: list[Edit],
    out: Path | None,
    as_json: bool,
) -> None:
    if out is None:
        raise refused("there is no --out", field="out", remedy="name a .npy file to write")
    rows = read_rows(activations)
    goal = None if target is None else read_rows(target, "target")
    with writing(out) as part:
        with connect() as client:
            moved = client.steer(reference, rows, edits, target=goal)
        with part.open("wb") as stream:
            np.save(stream, moved.activations)
    shape = list(moved.activations.shape)
    value = {
        "model": moved.model,
        "shape": shape,
        "out": out,
        "rows_changed": moved.rows_changed,
        "rows_by_edit": moved.rows_by_edit,
        "beyond_norm_bound": moved.beyond_norm_bound,
    }
    told(
        f"{moved.model}: {shape} written to {out}, {moved.rows_changed} rows moved", value, as_json
    )


def _show_texts(found: Mapping[str, Any]) -> None:
    steered, kl = found["steered"], found.get("kl_nats")
    print_table(
        ("", "prompt and text"),
        (
            ("as it is", found["prompt"] + " | " + found["unsteered"].get("text", "")),
            ("steered", found["prompt"] + " | " + steered.get("text", "")),
        ),
    )
    if kl is None:
        say("the edits changed no activation")
    else:
        console.print(
            f"{steered.get('steered_positions', 0)} positions steered, KL {kl:.3g} nats after the "
            "first",
            highlight=False,
        )


def _token(token: Mapping[str, Any]) -> tuple[str, str]:
    pairs = zip(token.get("features", ()), token.get("values", ()), strict=True)
    text = "  ".join(f"{feature}={value:.3g}" for feature, value in pairs)
    return repr(token.get("text", ""))[1:-1], text
