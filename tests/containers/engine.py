"""Docker or podman, and the program that runs compose files with it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
ENGINE = "podman" if "podman" in COMPOSE[0] else "docker"


class CommandFailed(Exception):
    """A command of the engine ended with an error; its last lines are the message."""


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = 600
) -> str:
    """What a command printed. Raises CommandFailed."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # What a script had started would go on, and disturb the next run.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        last = "\n".join((out + err).splitlines()[-15:])
        raise CommandFailed(f"{shlex.join(command)}: exit code {process.returncode}\n{last}")
    return out


def works(command: Sequence[str]) -> bool:
    """Whether a command ends without an error."""
    try:
        run(command, timeout_s=60)
    except (CommandFailed, subprocess.TimeoutExpired):
        return False
    return True


def has_image(name: str) -> bool:
    """Whether the engine has an image of this name."""
    return works([ENGINE, "image", "inspect", name])


def kill(container: str) -> None:
    """End a container as a fault would: with SIGKILL to its first process, past the engine, whose
    own `kill` would count as a wish of the operator's and keep it from coming back."""
    pid = int(run([ENGINE, "inspect", "--format", "{{.State.Pid}}", container]))
    os.kill(pid, signal.SIGKILL)


def restarted(container: str, pid: str) -> bool:
    """Whether the container runs, in another process than `pid`."""
    now = run([ENGINE, "inspect", "--format", "{{.State.Running}} {{.State.Pid}}", container])
    running, found = now.split()
    return running == "true" and found != pid


def logs(container: str) -> str:
    """All that a container wrote."""
    ended = subprocess.run(
        [ENGINE, "logs", container], capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stdout + ended.stderr


def waited(what: str, until: Callable[[], bool], deadline_s: float = 900) -> float:
    """Seconds until `until` was true. Raises TimeoutError, which names `what`."""
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > deadline_s:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.5)
    return time.monotonic() - begun
