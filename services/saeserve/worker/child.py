"""A job process as its supervisor holds it: asked to stop first, killed when it will not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence

DEFAULTS = {
    # OpenMP's threads spin while they wait for each other. One that has lost its core to another
    # process then costs a time slice at every loop: steps took three times as long under load.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Large tensors are given back and faulted in again with every step; by huge pages that is
    # five times cheaper (glibc 2.35 and later; others ignore it).
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # `settle_torch` asks for the same bits every time, and cuBLAS keeps to that only with a
    # workspace of its own, which it is asked for before CUDA starts.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Environment of a job process, where the operator has not set it."""


class Child:
    """A direct child in a session, hence a process group, of its own."""

    def __init__(
        self,
        command: Sequence[str],
        stop_grace_s: float,
        *,
        told: bool = False,
        pipes: Sequence[int] = (),
    ) -> None:
        """`told`: its standard input is a pipe from this process; `pipes`: descriptors it keeps."""
        self._grace_s = stop_grace_s
        self._deadline: float | None = None
        # Started by the thread that waits for it: PR_SET_PDEATHSIG fires when that thread ends.
        self._process = subprocess.Popen(
            command,
            start_new_session=True,
            stdin=subprocess.PIPE if told else subprocess.DEVNULL,
            close_fds=True,
            pass_fds=tuple(pipes),
            env=DEFAULTS | os.environ,  # noqa: TID251 — handed on to the child, not read
        )

    @property
    def pid(self) -> int:
        """Process id, also the id of the group."""
        return self._process.pid

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._deadline is not None

    @property
    def ended(self) -> bool:
        """Whether the process is gone, by itself or killed."""
        return self._process.poll() is not None

    def tell(self, text: str) -> bool:
        """Write to its standard input and close that; False when it has ended."""
        if self._process.stdin is None:
            return False
        try:
            with self._process.stdin as stream:
                stream.write(text.encode())
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Ask it to stop; `poll` kills it when the grace is over. Asking again changes nothing."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_s
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and whatever it started, and reap it; nothing when it has ended."""
        if self._process.returncode is None:
            self._sweep()
            self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def poll(self, wait_s: float) -> int | None:
        """Exit code (negative: the signal), or None while it runs. Waits up to `wait_s`."""
        try:
            code = self._process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.kill()
            return self._process.poll()
        self._sweep()
        return code

    def _sweep(self) -> None:
        """Kill what is left of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
