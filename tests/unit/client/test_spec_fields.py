"""Job specs of plain data: counts as people write them, and errors in their own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.jobs import parse_spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50000", 50_000),
        ("50k", 50_000),
        ("200K", 200_000),
        ("1.5M", 1_500_000),
        ("2B", 2 * 10**9),
        ("1_000", 1000),
        ("1,000", 1000),
        ("1e6", 10**6),
        ("9007199254740993", 9007199254740993),
        (4096.0, 4096),
        (np.int64(7), 7),
    ],
)
def test_counts_everywhere(text: object, value: int) -> None:
    for spec in (
        {"train": {"tokens": text}},
        {"train": {"sweep": {"d_sae": [text]}}},
        {"train": {"optimizer": {"warmup_steps": text}}},
        {"harvest": {"max_tokens": text}},
    ):
        sent = parse_spec(spec)
        found = [
            sent.train.tokens,
            *sent.train.sweep.d_sae,
            sent.train.optimizer.warmup_steps,
            sent.harvest.max_tokens,
        ]
        assert max(found) == value


@pytest.mark.parametrize(
    ("value", "sent"), [("1e-3", 1e-3), ("200k", 2e5), (3, 3.0), (np.float32(0.5), 0.5)]
)
def test_real_numbers(value: object, sent: float) -> None:
    assert parse_spec({"train": {"target_l0": value}}).train.target_l0 == sent
    assert parse_spec({"train": {"sweep": {"lr": [value]}}}).train.sweep.lr[0] == sent


@pytest.mark.parametrize(
    ("spec", "field", "text"),
    [
        ({"train": {"batchsize": 4}}, "train.batchsize", "did you mean batch_size?"),
        ({"train": {"lr": 4}}, "train.lr", "did you mean optimizer.lr or sweep.lr?"),
        ({"trian": {}}, "trian", "did you mean train?"),
        ({"train": {"topk": {"kk": 4}}}, "train.topk.kk", "train.topk has no field 'kk'"),
        ({"train": {"colour": 4}}, "train.colour", "d_sae"),
        ({"train": {"tokens": "many"}}, "train.tokens", "50k"),
        ({"train": {"tokens": float("inf")}}, "train.tokens", "whole number"),
        ({"train": {"tokens": 1.5}}, "train.tokens", "whole number"),
        ({"train": {"d_sae": 2**63}}, "train.d_sae", "largest"),
        ({"train": {"d_sae": True}}, "train.d_sae", "whole number"),
        ({"train": {"dataset": 3}}, "train.dataset", "write text: '3'"),
        ({"train": {"dataset": {"x": 1}}}, "train.dataset", "no fields"),
        ({"train": {"sources": "a"}}, "train.sources", "[a]"),
        ({"train": {"sweep": {"k": 3}}}, "train.sweep.k", "[3]"),
        ({"train": {"skip_connection": "yes"}}, "train.skip_connection", "true or false"),
        ({"train": {"topk": {}, "relu": {}}}, "train", "topk and relu; give one architecture"),
        ({"train": 3}, "train", "has fields"),
    ],
)
def test_errors_name_the_field_as_it_was_written(
    spec: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_spec(spec)
    assert caught.value.field == field
    assert caught.value.code == "INVALID_ARGUMENT"
    message = str(caught.value)
    assert text in message
    assert "\n" not in message
    assert "dSae" not in message
    assert ".proto" not in message


def test_all_errors_come_at_once() -> None:
    with pytest.raises(InvalidArgumentError, match=r"3 errors: .*batchsize.*tokens.*dataset"):
        parse_spec({"train": {"batchsize": 1, "tokens": "x", "dataset": 1}})


def test_names_of_json_clients_are_taken_too() -> None:
    assert parse_spec({"train": {"dSae": "4k"}}).train.d_sae == 4000
