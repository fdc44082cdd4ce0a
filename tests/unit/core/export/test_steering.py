"""The algebra of edits: what they do to rows, in which order, and what they leave alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.sae import Kind, generator, random_model
from torch import Tensor

from saeserve.core.export import steering
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.steering import change_of
from saeserve.core.formats.model import RowNorm
from saeserve.core.ops import sparse
from saeserve.core.specs.steering import EditSpec

KINDS: list[Kind] = ["topk", "threshold", "relu"]
ROWS = 3 * torch.randn(25, 12, generator=generator(3))
MODEL = random_model("relu")
LATENTS = st.integers(0, MODEL.config.d_sae - 1)
NUMBERS = st.floats(-8, 8, width=32)
Given = dict[str, Any]


def feature_of(edit: Given) -> int:
    return edit["feature"]


@st.composite
def one_edit(draw: st.DrawFn, repeatable: bool = False) -> Given:
    """An edit of some latent; `repeatable`: twice is the same as once."""
    names = ["set", "clamp", "ablate"] if repeatable else ["add", "scale", "set", "clamp", "ablate"]
    name, low, high = draw(st.sampled_from(names)), *sorted([draw(NUMBERS), draw(NUMBERS)])
    values: Given = {"clamp": {"low": low, "high": high}, "ablate": True}
    return {"feature": draw(LATENTS), name: values.get(name, low)}


def edits(*given: Given) -> list[EditSpec]:
    return [EditSpec.parse(each, "edit") for each in given]


def steered(model: InferenceModel, *given: Given) -> Tensor:
    return change_of(model, model.encode(ROWS), edits(*given)).applied(ROWS)


def bits(x_BD: Tensor) -> Tensor:
    return x_BD.view(torch.int32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(one_edit(), min_size=1, max_size=6, unique_by=lambda edit: edit["feature"]), st.data()
)
def test_edits_of_different_features_commute(given: list[Given], data: st.DataObject) -> None:
    other = data.draw(st.permutations(given))
    first = change_of(MODEL, MODEL.encode(ROWS), edits(*given))
    second = change_of(MODEL, MODEL.encode(ROWS), edits(*other))
    torch.testing.assert_close(first.delta_BO, second.delta_BO)
    counts = dict(zip([e["feature"] for e in given], first.rows_by_edit, strict=True))
    assert counts == dict(zip([e["feature"] for e in other], second.rows_by_edit, strict=True))


@settings(max_examples=40, deadline=None)
@given(one_edit(repeatable=True))
def test_set_clamp_and_ablate_twice_are_once(edit: Given) -> None:
    [once] = edits(edit)
    f_B = sparse.to_dense(MODEL.encode(ROWS))[:, once.feature]
    after_B = steering.edited(once, f_B)
    assert torch.equal(steering.edited(once, after_B), after_B)


@settings(max_examples=40, deadline=None)
@given(LATENTS, NUMBERS, NUMBERS)
def test_amounts_add_up_and_factors_multiply(latent: int, a: float, b: float) -> None:
    adds = [{"feature": latent, "add": a}, {"feature": latent, "add": b}]
    summed = {"feature": latent, "add": a + b}
    torch.testing.assert_close(steered(MODEL, *adds), steered(MODEL, summed), rtol=1e-5, atol=1e-4)
    scales = [{"feature": latent, "scale": a}, {"feature": latent, "scale": b}]
    product = {"feature": latent, "scale": a * b}
    torch.testing.assert_close(
        steered(MODEL, *scales), steered(MODEL, product), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_kept(kind: Kind) -> None:
    """x' - x is what decoding makes of the edited features less what it makes of those found."""
    model = random_model(kind)
    f_BF = model.encode_dense(ROWS)
    edited_BF = f_BF.clone()
    edited_BF[:, 3] = 5.0
    edited_BF[:, 7] *= -2.0
    edited_BF[:, 11] += 1.5
    expected = ROWS + (edited_BF - f_BF) @ model.W_dec
    given = ({"feature": 3, "set": 5}, {"feature": 7, "scale": -2}, {"feature": 11, "add": 1.5})
    torch.testing.assert_close(steered(model, *given), expected)


def test_rows_normalised_by_the_model_move_in_raw_units() -> None:
    norm = RowNorm(kind="layer_norm", eps=1e-5)
    config = MODEL.config.model_copy(update={"row_norm": norm})
    model = dataclasses.replace(MODEL, config=config)
    found = model.encode(ROWS)
    f_BF = sparse.to_dense(found)
    f_BF[:, 4] = 2.0
    kept = f_BF != 0
    after = dataclasses.replace(sparse.from_mask(f_BF, kept), statistics=found.statistics)
    expected = ROWS + model.decode(after) - model.decode(found)
    torch.testing.assert_close(
        steered(model, {"feature": 4, "set": 2}), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_which_nothing_changes_are_the_same_bits(kind: Kind) -> None:
    model = random_model(kind)
    f_BF = model.encode_dense(ROWS)
    latent = int((f_BF != 0).sum(0).argmax())
    change = change_of(model, model.encode(ROWS), edits({"feature": latent, "ablate": True}))
    fires_B = f_BF[:, latent] != 0
    assert int(fires_B.sum()) > 0
    assert torch.equal(change.changed_B, fires_B)
    assert change.rows_by_edit == (int(fires_B.sum()),)
    x_BD = ROWS.clone()
    x_BD[:, 0] = -0.0
    assert torch.equal(
        change.applied(x_BD)[~fires_B].view(torch.int32), x_BD[~fires_B].view(torch.int32)
    )
    nothing = change_of(model, model.encode(ROWS), edits({"feature": latent, "scale": 1}))
    assert torch.equal(nothing.applied(ROWS).view(torch.int32), ROWS.view(torch.int32))


def test_only_the_chosen_rows_move() -> None:
    chosen_B = torch.arange(len(ROWS)) % 3 == 0
    found = MODEL.encode(ROWS)
    change = change_of(MODEL, found, edits({"feature": 2, "add": 4}), chosen_B)
    assert torch.equal(change.changed_B, chosen_B)
    whole = change_of(MODEL, found, edits({"feature": 2, "add": 4}))
    torch.testing.assert_close(change.delta_BO[chosen_B], whole.delta_BO[chosen_B])


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = edits({"feature": 2, "add": 4}, {"feature": 5, "ablate": True})
    whole = change_of(MODEL, MODEL.encode(ROWS), given)
    monkeypatch.setattr(steering, "BLOCK_ENTRIES", 14)
    parts = change_of(MODEL, MODEL.encode(ROWS), given)
    torch.testing.assert_close(parts.delta_BO, whole.delta_BO)
    assert parts.rows_by_edit == whole.rows_by_edit
    assert change_of(MODEL, MODEL.encode(ROWS[:0]), given).rows_by_edit == (0, 0)
