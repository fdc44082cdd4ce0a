"""The flags of `submit train` follow from the API's architectures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from saeserve.cli.training_flags import train
from saeserve.client.architectures import ARCHITECTURES
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS


def test_the_api_has_the_architectures_of_the_core() -> None:
    assert set(ARCHITECTURES) == set(ARCHITECTURE_SPECS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_a_flag(name: str) -> None:
    parameters = inspect.signature(train).parameters
    has_k = "k" in ARCHITECTURES[name]
    assert parameters[name].default == (None if has_k else False)
    flag: Any = {name: "32" if has_k else True}
    made = train(**flag)
    assert made == {"train": {name: {"k": "32"} if has_k else {}}}
