"""Every public class and method of the SDK has an example, and every example runs on servers."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Generator, Iterator

import pytest
from tests.fakes.example_world import World, world
from tests.fakes.valkey import Valkey

import saeserve.client
from saeserve.client import Client

CHECKER, OPTIONS = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def classes() -> set[type]:
    """The classes that users import, and those of a client's parts."""
    with Client("127.0.0.1:1", "127.0.0.1:1") as client:
        held: list[type[object]] = [type(value) for value in vars(client).values()]
    found: list[type[object]] = [
        each for each in vars(saeserve.client).values() if inspect.isclass(each)
    ]
    return {*found, *(each for each in held if each.__module__.startswith("saeserve.client."))}


def documented() -> Iterator[tuple[str, str]]:
    """Names and docstrings: of the classes that users import, and of all public methods."""
    for kind in classes():
        if kind.__name__ in vars(saeserve.client):
            yield kind.__name__, kind.__doc__ or ""
        for name, member in vars(kind).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield f"{kind.__name__}.{name}", function.__doc__ or ""


SHOWN = dict(sorted(documented()))


def examples(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(SHOWN[name], name)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Generator[World]:
    with world(tmp_path_factory.mktemp("w"), valkey) as made:
        yield made


def test_every_part_of_a_client_is_among_them() -> None:
    assert {"Jobs.submit", "Server.presets", "Access", "SparseFeatures.load"} <= SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_there_is_an_example_that_uses_it(name: str) -> None:
    source = "".join(each.source for each in examples(name))
    method = name.partition(".")[2]
    assert source, f"{name}: show in its docstring how it is used"
    assert f".{method}(" in source or not method, f"{name}: its example does not call it"


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_runs(
    name: str,
    deployment: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(deployment.here)
    with deployment.names(name) as names:
        for each in examples(name):
            source = each.source
            for shown, here in deployment.addresses.items():
                source = source.replace(shown, here)
            exec(compile(source, name, "single"), names)
            printed = capsys.readouterr().out
            assert not each.want or CHECKER.check_output(each.want, printed, OPTIONS), printed
