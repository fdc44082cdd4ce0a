"""The calibration process: measures the machine of a resource class and leaves it as a file.

Torch lives only in a worker's children; this is one, and ends with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from saeserve.core.specs.machine import Machine
from saeserve.core.training.calibration import measure_rates, measure_steps
from saeserve.platform.memory import limit_bytes
from saeserve.platform.process import die_with_parent
from saeserve.worker.hardware import CalibrationOrder
from saeserve.worker.runners.devices import device_of, settle_torch


def main() -> None:
    """Measure, and leave what is known at the order's path after each architecture."""
    order = CalibrationOrder.model_validate_json(sys.argv[1])
    die_with_parent(order.parent)
    settle_torch(order.torch_threads)
    device = device_of(order.resource_class)
    machine = _rated(order, device)
    for timing in measure_steps(device):
        machine = machine.model_copy(update={"timings": (*machine.timings, timing)})
        _leave(machine, order.path)


def _rated(order: CalibrationOrder, device: torch.device) -> Machine:
    """The machine as this process finds it, before any step."""
    rates = measure_rates(device)
    cuda = device.type == "cuda"
    return Machine(
        fingerprint=order.fingerprint,
        name=torch.cuda.get_device_name(device) if cuda else order.name,
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        memory_bytes=torch.cuda.mem_get_info(device)[1] if cuda else limit_bytes(),
        float32_flops=rates.float32_flops,
        bfloat16_flops=rates.bfloat16_flops,
        adam_bytes_per_second=rates.adam_bytes_per_second,
    )


def _leave(machine: Machine, path: Path) -> None:
    """In one piece; what is left before a process is ended counts."""
    staged = path.with_suffix(".part")
    staged.write_text(machine.model_dump_json())
    os.replace(staged, path)


if __name__ == "__main__":
    main()
