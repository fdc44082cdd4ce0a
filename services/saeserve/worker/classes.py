"""Which resource classes a worker takes, and on what machine."""

from __future__ import annotations

from collections.abc import Callable

from saeserve.core.planning.machine import Machine
from saeserve.errors import StartupError
from saeserve.platform.startup_errors import no_device
from saeserve.worker.hardware import Accelerator, accelerator, machine_of
from saeserve.worker.settings import WorkerSettings

CPU, GPU = "cpu", "gpu"


def machines_of(
    settings: WorkerSettings, look: Callable[[], Accelerator | None] = accelerator
) -> dict[str, Machine]:
    """The machine of each class that the worker takes. `look` asks torch for a GPU, unless the
    settings ask for the class cpu alone.

    Raises StartupError for a worker that would take the class of a device which it does not have:
    it would make jobs fail that other workers can run.
    """
    asked = settings.worker_classes
    device = None if asked == (CPU,) else look()
    classes = asked or ((GPU, CPU) if device else (CPU,))
    for each in classes:
        if each != CPU and device is None:
            raise no_gpu(each)
    return {each: machine_of(each, device, settings.threads) for each in classes}


def no_gpu(resource_class: str) -> StartupError:
    """The error for a worker that cannot run the jobs of a class."""
    return no_device(
        f"this worker would take jobs of class {resource_class}, but torch sees no GPU here",
        remedy="install the NVIDIA driver and a CUDA build of torch (python -m torch.utils."
        f"collect_env tells), or take {resource_class} out of SAESERVE_WORKER_CLASSES",
    )
