"""Control, and all that it stands on, runs where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = """
import sys
for name in ("torch", "safetensors", "transformers"):
    sys.modules[name] = None
import saeserve.control.server, saeserve.control.__main__
import saeserve.core.planning.plan
"""


def test_control_never_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
