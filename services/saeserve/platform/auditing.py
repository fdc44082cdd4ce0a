"""Every call that changes something leaves a line in the audit log, whether it succeeded or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.message import Message

from saeserve.platform.answers import Context, Outcome
from saeserve.platform.audit_log import AuditLog
from saeserve.platform.auth.caller import Caller
from saeserve.platform.auth.limiter import Bucket
from saeserve.platform.auth.rules import Rule
from saeserve.platform.requests import Requests

STRANGERS_PER_S = 1.0
"""Lines about callers without a good token: they must not fill the disk."""
_MAX_TEXT = 200
_IDENTIFYING = ("id", "resource", "name")


class Auditor:
    """Knows which methods change something."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        audit: AuditLog | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without an `audit` log nothing is written."""
        self._changing = {name for name, rule in rules.items() if rule.changes}
        self._audit = audit
        self._clock = clock
        self._strangers = Bucket(STRANGERS_PER_S, clock())
        self._unwritten = 0

    async def note(
        self,
        method: str,
        caller: Caller | None,
        context: Context,
        requests: Requests | None,
        answer: object,
        outcome: Outcome,
    ) -> None:
        """Write the line of a call that ended; `caller` is None for one that was not let in."""
        audit, asked = self._audit, requests.first if requests is not None else None
        if audit is None or method not in self._changing or getattr(asked, "validate_only", False):
            return
        if caller is None and not self._may_write_of_stranger():
            return
        entry: dict[str, object] = {
            "method": method.removeprefix("/"),
            "token": caller.token if caller else "",
            "owner": caller.owner if caller else "",
            "from": context.peer(),
            **_certificate(context),
            "what": {**_asked(asked), **_made(answer)},
            "code": outcome.code.name,
            "reason": outcome.reason,
        }
        if caller is None and self._unwritten:
            entry["unwritten"] = self._unwritten
            self._unwritten = 0
        # A call that is cancelled meanwhile is written all the same.
        await asyncio.shield(asyncio.to_thread(audit.write, entry))

    def _may_write_of_stranger(self) -> bool:
        if self._strangers.debt_s(self._clock()):
            self._unwritten += 1
            return False
        self._strangers.take(1.0)
        return True


def _certificate(context: Context) -> dict[str, str]:
    """The name in the certificate that the client showed, if any."""
    shown = cast("Mapping[str, list[bytes]]", context.auth_context())
    kinds = ("x509_common_name", "x509_subject_alternative_name")
    names = [name for kind in kinds for name in shown.get(kind, ()) if name]
    return {"certificate": names[0].decode(errors="replace")} if names else {}


def _asked(message: object) -> dict[str, object]:
    """The plain fields of a request, those of its header, and of a spec its kind and names."""
    found: dict[str, object] = {}
    fields = message.ListFields() if isinstance(message, Message) else ()
    for field, value in fields:
        if isinstance(value, str):
            found[field.name] = value[:_MAX_TEXT]
        elif isinstance(value, bool | int | float):
            found[field.name] = value
        elif isinstance(value, Message) and field.name in ("header", "spec"):
            found |= _asked(value)
        elif isinstance(value, Message):
            found["kind"] = field.name
            found |= {key: text for key, text in _asked(value).items() if key in _SPEC_NAMES}
    return found


_SPEC_NAMES = ("model", "dataset", "path", "format")


def _made(answer: object) -> dict[str, object]:
    """What the answer names: the job, upload, data set or version."""
    fields = answer.ListFields() if isinstance(answer, Message) else ()
    for field, value in fields:
        for name in _IDENTIFYING if isinstance(value, Message) else ():
            if isinstance(text := getattr(cast(Any, value), name, None), str) and text:
                return {field.name: text}
    return {}
