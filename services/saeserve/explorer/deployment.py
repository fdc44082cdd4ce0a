"""The deployment that is shown, as each caller may see it: an SDK client for each token."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock

from saeserve.client import Client
from saeserve.client.errors import PreconditionError, UnauthenticatedError
from saeserve.explorer.settings import ExplorerSettings

MOST_CLIENTS = 64
LOOK_EVERY_S = 60.0
"""How long it is believed that control asks for tokens."""


class Deployment:
    """Clients by token; threads may share it."""

    def __init__(self, settings: ExplorerSettings) -> None:
        """Raises StartupError for an address that everybody could call."""
        self._settings = settings
        self._must_sign_in = settings.must_sign_in
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._lock = Lock()
        self._guarded_until = 0.0

    def client(self, token: str) -> Client:
        """The client that calls with `token`, "" for none.

        Raises InvalidArgumentError for a malformed token, UnauthenticatedError where one is needed,
        PreconditionError where other machines are served and control would let anyone in.
        """
        if self._must_sign_in:
            if not token:
                raise UnauthenticatedError("sign in to see this deployment", reason="NO_TOKEN")
            self._check_guarded()
        return self._of(token)

    def close(self) -> None:
        """Close every client."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _of(self, token: str) -> Client:
        with self._lock:
            found = self._clients.pop(token, None) or self._opened(token)
            self._clients[token] = found
            if len(self._clients) > MOST_CLIENTS:
                # Calls of other threads may still be in it: its channels close when those let go.
                self._clients.popitem(last=False)
            return found

    def _opened(self, token: str) -> Client:
        known = self._settings
        return Client(
            known.control_address,
            known.inference_address,
            timeout=known.explorer_timeout_seconds,
            access=known.access(token),
        )

    def _check_guarded(self) -> None:
        """A well-formed token says nothing to a control service that asks for none."""
        if time.monotonic() < self._guarded_until:
            return
        try:
            self._of("").server.workers()
        except UnauthenticatedError:
            self._guarded_until = time.monotonic() + LOOK_EVERY_S
            return
        raise PreconditionError(
            "this explorer serves other machines, and the control service asks for no token",
            reason="CONTROL_UNGUARDED",
            remedy="set SAESERVE_AUTH=tokens for control and inference",
        )
