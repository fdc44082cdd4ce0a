"""What a worker tells of its machine, and how it has it measured."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes.memory_index import MemoryIndex
from tests.fakes.worker_bench import until

from saeserve.core.specs.architectures import ARCHITECTURE_SPECS
from saeserve.core.specs.machine import Machine, StepTiming
from saeserve.platform.memory import limit_bytes
from saeserve.worker.announcer import Announcer
from saeserve.worker.hardware import CalibrationOrder, command, fingerprint, processor_name
from saeserve.worker.settings import WorkerSettings

WRITE = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
HANG = "import time; time.sleep(600)"


def timings() -> tuple[StepTiming, ...]:
    return tuple(
        StepTiming(
            architecture=name,
            d_in=8,
            d_sae=16,
            active=2.0,
            encoder_dtype="float32",
            seconds_per_row=1e-6,
            seconds_per_step=1e-3,
        )
        for name in ARCHITECTURE_SPECS
    )


class Rig:
    """An announcer over a fake index, with a calibration that plays a part."""

    def __init__(self, folder: Path, **settings: object) -> None:
        values = {"run": folder / "run", "lease_seconds": 0.3, **settings}
        self.settings = WorkerSettings.model_validate(values)
        self.index = MemoryIndex()
        self.alone = threading.Lock()
        self.orders: list[CalibrationOrder] = []
        self.script = WRITE

    def announcer(self) -> Announcer:
        return Announcer(self.settings, self.index, self.alone, self.command)

    def command(self, order: CalibrationOrder) -> Sequence[str]:
        self.orders.append(order)
        machine = Machine(
            fingerprint=order.fingerprint, name="Z", memory_bytes=1, timings=timings()
        )
        return [sys.executable, "-S", "-c", self.script, str(order.path), machine.model_dump_json()]

    def told(self, resource_class: str = "cpu") -> list[Machine]:
        return self.index.machines(resource_class)

    def measured(self) -> bool:
        return any(machine.measured for machine in self.told())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_memory_is_told_at_once_and_speed_when_it_is_measured(rig: Rig) -> None:
    announcer = rig.announcer()
    with rig.alone:
        announcer.start()
        until(lambda: len(rig.told()) == 1)
        [machine] = rig.told()
        assert (machine.measured, machine.memory_bytes) == (False, limit_bytes())
        assert rig.orders == []
    until(rig.measured)
    announcer.close()
    [order] = rig.orders
    assert (order.resource_class, order.fingerprint) == ("cpu", fingerprint("cpu", 0))


def test_a_worker_that_ends_is_forgotten_and_one_that_lives_is_not(rig: Rig) -> None:
    announcer = rig.announcer()
    announcer.start()
    until(rig.measured)
    threading.Event().wait(2 * rig.settings.lease_seconds)
    assert rig.measured()
    announcer.close()
    until(lambda: rig.told() == [])


def test_a_restart_measures_nothing_and_tells_the_limit_of_now(rig: Rig) -> None:
    first = rig.announcer()
    first.start()
    until(rig.measured)
    first.close()
    until(lambda: rig.told() == [])
    second = rig.announcer()
    second.start()
    until(rig.measured)
    second.close()
    assert len(rig.orders) == 1
    [machine] = rig.told()
    assert machine.memory_bytes == limit_bytes()


def test_an_index_that_was_away_is_told_later(rig: Rig) -> None:
    rig.index.down = True
    announcer = rig.announcer()
    announcer.start()
    until(lambda: bool(rig.orders))
    rig.index.down = False
    until(rig.measured)
    announcer.close()


def test_stopping_ends_a_calibration(rig: Rig) -> None:
    rig.script = HANG
    announcer = rig.announcer()
    announcer.start()
    until(lambda: bool(rig.orders) and rig.alone.locked())
    announcer.close()
    assert not rig.alone.locked()
    assert not any(machine.measured for machine in rig.told())


def test_calibration_can_be_switched_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path, calibrate=False)
    announcer = rig.announcer()
    announcer.start()
    until(lambda: len(rig.told()) == 1)
    announcer.close()
    assert rig.orders == []


def test_an_accelerator_is_told_of_once_it_is_measured(tmp_path: Path) -> None:
    rig = Rig(tmp_path, worker_classes=("gpu",))
    announcer = rig.announcer()
    with rig.alone:
        announcer.start()
        assert rig.told("gpu") == []
    until(lambda: len(rig.told("gpu")) == 1)
    announcer.close()
    assert rig.told("gpu")[0].memory_bytes == 1


def test_the_fingerprint_follows_class_threads_and_processor(tmp_path: Path) -> None:
    def box(name: str, model: str) -> Path:
        root = tmp_path / name
        (root / "proc").mkdir(parents=True)
        (root / "proc/cpuinfo").write_text(f"model name\t: {model}\nflags\t\t: amx\n" * 2)
        return root

    a, b = box("a", "Zen"), box("b", "Xeon")
    marks = [fingerprint(*each) for each in (("cpu", 1, a), ("cpu", 2, a), ("gpu", 1, a))]
    assert len({*marks, fingerprint("cpu", 1, b)}) == 4
    assert fingerprint("cpu", 1, a) == marks[0]
    assert (processor_name(a), processor_name(tmp_path)) == ("Zen", "a processor without a name")


def test_the_real_command_is_the_calibration_module(tmp_path: Path) -> None:
    order = CalibrationOrder(
        resource_class="cpu", fingerprint="f", name="n", torch_threads=1, path=tmp_path, parent=1
    )
    words = command(order)
    assert words[1:3] == ["-m", "saeserve.worker.calibration"]
    assert CalibrationOrder.model_validate_json(words[3]) == order
