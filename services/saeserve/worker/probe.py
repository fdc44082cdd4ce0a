"""The probe process: prints as JSON which accelerator torch sees, and ends."""

from __future__ import annotations

import sys

import torch

from saeserve.worker.hardware import Accelerator, Seen


def seen() -> Seen:
    """As torch says. Asking for the memory takes some of it: this process ends soon."""
    version = str(torch.__version__)
    if not torch.cuda.is_available():
        return Seen(torch=version)
    memory = torch.cuda.mem_get_info(0)[1]
    device = Accelerator(name=torch.cuda.get_device_name(0), memory_bytes=memory)
    return Seen(torch=version, accelerator=device)


if __name__ == "__main__":
    sys.stdout.write(seen().model_dump_json())
