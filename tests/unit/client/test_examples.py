"""Every public call of the SDK shows how it is used, and the examples are of calls that exist."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from saeserve.client import Client, ClientError, SparseFeatures
from saeserve.client.datasets import Datasets
from saeserve.client.inference import Inference
from saeserve.client.jobs import Jobs
from saeserve.client.models import Models
from saeserve.client.store import Store
from saeserve.client.transfers import Transfers

PARTS: dict[str, type] = {
    "jobs": Jobs,
    "datasets": Datasets,
    "models": Models,
    "transfers": Transfers,
    "store": Store,
    "inference": Inference,
}


def documented() -> Iterator[tuple[str, object]]:
    for kind in (Client, SparseFeatures, *PARTS.values()):
        for name, member in inspect.getmembers(kind, inspect.isroutine):
            if not name.startswith("_"):
                yield f"{kind.__name__}.{name}", member
    yield from (
        ("Client", Client),
        ("SparseFeatures", SparseFeatures),
        ("ClientError", ClientError),
    )


SHOWN = dict(documented())


def examples(name: str) -> str:
    return "".join(
        each.source for each in doctest.DocTestParser().get_examples(SHOWN[name].__doc__ or "")
    )


@pytest.mark.parametrize("name", SHOWN)
def test_every_public_call_has_an_example(name: str) -> None:
    assert examples(name), f"{name}: show in its docstring how it is called"


@pytest.mark.parametrize("name", SHOWN)
def test_examples_call_what_there_is_with_arguments_that_it_has(name: str) -> None:
    for node in ast.walk(ast.parse(examples(name))):
        if isinstance(node, ast.Call) and (found := called(node.func)) is not None:
            given = [object() for _ in node.args]
            named = {keyword.arg or "": object() for keyword in node.keywords}
            inspect.signature(found).bind(None, *given, **named)


def called(function: ast.expr) -> Any:  # noqa: ANN401 - any callable
    """The method that `client.jobs.get` or `features.row` is; None for anything else."""
    match ast.unparse(function).split("."):
        case ["client", part, method]:
            return getattr(PARTS[part], method)
        case ["client", method]:
            return getattr(Client, method)
        case ["features", method]:
            return getattr(SparseFeatures, method)
        case _:
            return None
