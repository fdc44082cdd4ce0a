"""The probe process: prints as JSON which accelerator torch sees, and ends."""

from __future__ import annotations

import sys

import torch

from saeserve.worker.hardware import Accelerator, Seen


def seen() -> Seen:
    """The accelerator as torch reports it. The query uses its memory, so this process ends soon."""
    version = str(torch.__version__)
    if not torch.cuda.is_available():
        return Seen(torch=version)
    memory = torch.cuda.mem_get_info(0)[1]
    device = Accelerator(name=torch.cuda.get_device_name(0), memory_bytes=memory)
    return Seen(torch=version, accelerator=device)


if __name__ == "__main__":
    sys.stdout.write(seen().model_dump_json())
