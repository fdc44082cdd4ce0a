"""What a real control service says of its workers and presets."""

from __future__ import annotations

from tests.fakes.control_server import Control
from tests.fakes.transferring import client_of

from saeserve.core.planning.machine import Machine
from saeserve.core.specs.presets import PRESETS


def test_live_workers_are_listed_by_class(control: Control) -> None:
    control.ready()
    control.submit()
    with client_of(control) as client:
        before = {each.name: each for each in client.server.workers()}
        assert not before["cpu"].machines
        assert before["cpu"].queued == 1
        machine = Machine(kind="a processor", memory_bytes=2**34)
        for worker in ("one", "two"):
            control.index().announce("cpu", worker, machine, 60.0)
        after = {each.name: each for each in client.server.workers()}
    assert [(each.kind, each.memory_bytes) for each in after["cpu"].machines] == [
        ("a processor", 2**34)
    ] * 2
    assert not after["gpu"].machines


def test_presets_are_listed_as_they_are(control: Control) -> None:
    with client_of(control) as client:
        found = {each.name: each for each in client.server.presets()}
    assert set(found) == set(PRESETS)
    for name, preset in PRESETS.items():
        assert found[name].source == preset.source
        assert found[name].spec == preset.fields
