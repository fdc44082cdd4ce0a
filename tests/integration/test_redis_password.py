"""Users and passwords of a real server on a port of this machine, as deployments have them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack, free_port, until

from saeserve.platform.broker_server import BUNDLED, find_server
from saeserve.platform.redis import answers

USER, PASSWORD, WRONG = "saeserve", "hunter2-%/:@?#-correct", "hunter2-%/:@?#-mistaken"
QUOTED = "hunter2-%25%2F%3A%40%3F%23-correct"
REFUSED = "refuses the user or the password"


class Guarded:
    """A server that lets nobody but `USER` do anything."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        acl = folder / "users.acl"
        acl.write_text(f"user default off\nuser {USER} on >{PASSWORD} ~* &* +@all -@admin\n")
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": ""}
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (folder / "log").open("wb") as log:
            command = [program, *flags, "--aclfile", str(acl)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: answers(self.url(f"{USER}:{QUOTED}")), 60, "the server")

    def url(self, user: str) -> str:
        """The URL for `user`, or user:password."""
        return f"redis://{user}@127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=["bundled", "redis-server"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    bundled = request.param == "bundled"
    program = str(find_server(BUNDLED)) if bundled else shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not on PATH")
    made = Guarded(program, tmp_path_factory.mktemp("g"))
    yield made
    made.stop()


@contextlib.contextmanager
def stack_of(folder: Path, url: str, password: str = "") -> Generator[RealStack]:
    """A stack whose broker is elsewhere."""
    settings = {"redis_url": url}
    if password:
        file = folder / "redis.password"
        file.write_text(f"{password}\n")
        file.chmod(0o600)
        settings["redis_password_file"] = str(file)
    made = RealStack(folder / "x", settings)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("where", ["url", "file"])
def test_a_job_runs_with_user_and_password(
    server: Guarded, where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = {"url": (f"{USER}:{QUOTED}", ""), "file": (USER, PASSWORD)}[where]
    with stack_of(tmp_path_factory.mktemp("p"), server.url(given[0]), given[1]) as stack:
        stack.control()
        stack.worker(standby="false")
        np.save(stack.root / "rows.npy", np.ones((64, 8), np.float32))
        stack.client.datasets.register("acts", ["root:rows.npy"])
        job = stack.client.jobs.submit({"ingest": {"dataset": "acts"}})
        assert stack.wait(job.id).state == "SUCCEEDED"
        assert "hunter2" not in stack.logs()


@pytest.mark.parametrize(
    ("user", "password"),
    [(USER, WRONG), (f"{USER}:hunter2-mistaken", ""), ("nobody", PASSWORD), ("", PASSWORD)],
    ids=["file", "url", "unknown user", "default user"],
)
def test_a_wrong_login_is_named_and_not_shown(
    server: Guarded, user: str, password: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with stack_of(tmp_path_factory.mktemp("w"), server.url(user), password) as stack:
        control = stack.control()  # it starts, as it would while the server is away
        until(lambda: REFUSED in control.text(), 60, "the refusal in the log")
        assert "SAESERVE_REDIS_PASSWORD_FILE" in control.text()
        assert "hunter2" not in stack.logs()
