"""`saeserve token create|ls|revoke`: run where the store is, as by the operator of a deployment."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from saeserve.cli.output import Json, errors, print_json, told
from saeserve.cli.settings import CliSettings
from saeserve.cli.tables import print_table
from saeserve.errors import FailedPrecondition, InvalidInput, ServiceError
from saeserve.platform.audit_log import AuditLog
from saeserve.platform.auth.rules import Scope
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.tokens import Limits, TokenRecord, new_token
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import read_marker

app = typer.Typer(no_args_is_help=True, help="Tokens that let callers in; needs the store itself.")

_DAY_S = 86_400.0


@app.command()
def create(
    scope: Annotated[list[Scope], typer.Option(help="What it is for; may be given several times.")],
    owner: Annotated[
        str, typer.Option(help="Whose jobs, data sets and models it makes; admin for that scope.")
    ] = "",
    days: Annotated[int, typer.Option(help="How long it lasts; 0: for ever.", min=0)] = 365,
    calls_per_second: Annotated[
        float | None, typer.Option(help="More are refused for the moment.", min=0.01)
    ] = None,
    bytes_per_second: Annotated[
        float | None, typer.Option(help="Of requests; more are refused or slowed.", min=1)
    ] = None,
    upload_bytes: Annotated[
        int | None, typer.Option(help="What the owner's uploads may hold while they wait.", min=0)
    ] = None,
    note: Annotated[str, typer.Option(help="What the list says of it.")] = "",
    as_json: Json = False,
) -> None:
    """Make a token and print it: once, and alone on stdout."""
    tokens, now = _tokens(), time.time()
    expires = now + days * _DAY_S if days else None
    limits = Limits(
        calls_per_second=calls_per_second,
        bytes_per_second=bytes_per_second,
        upload_bytes=upload_bytes,
    )
    text, record = new_token(
        _owner(owner, scope), scope, now=now, expires=expires, note=note, limits=limits
    )
    tokens.add(record)
    _audit("token create", record)
    if as_json:
        print_json({**_shown(record), "token": text})
        return
    typer.echo(text)
    shown = _shown(record)
    errors.print(
        f"token {record.id} of {record.owner}: {shown['scopes']}; expires: {shown['expires']}",
        highlight=False,
    )


@app.command()
def ls(as_json: Json = False) -> None:
    """List tokens; their texts are nowhere."""
    tokens = _tokens()
    found = [_found(tokens, token) for token in tokens.ids()]
    if as_json:
        print_json(found)
        return
    columns = ("id", "owner", "scopes", "expires", "state", "note")
    print_table(columns, ([str(each.get(name, ""))[:40] for name in columns] for each in found))


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Id of the token, as ls shows it.")],
    as_json: Json = False,
) -> None:
    """Make a token worth nothing; services see it within seconds, and end its open streams."""
    record = _tokens().revoke(token, time.time())
    _audit("token revoke", record)
    told(f"token {record.id} of {record.owner} is revoked", _shown(record), as_json)


def _tokens() -> TokenStore:
    """Open the tokens of the deployment's store. Raises FailedPrecondition where there is none: a
    token in a folder that no service reads would let nobody in."""
    root = CliSettings.load().store
    if read_marker(root) is None:
        raise FailedPrecondition(
            f"{root} is not the store of a deployment",
            code="NO_STORE",
            remedy="start the control service first, and run this where its store is, with the "
            "same SAESERVE_STORE: docker compose exec control saeserve token create …",
        )
    return TokenStore(ArtifactStore(root))


def _audit(command: str, record: TokenRecord) -> None:
    """Write an audit line, as servers do for calls; the operator is the user of the command."""
    settings = CliSettings.load()
    entry = {
        "method": f"saeserve {command}",
        "token": "",
        "owner": f"uid {os.getuid()}",
        "from": socket.gethostname(),
        "what": {"id": record.id, "owner": record.owner, "scopes": list(record.scopes)},
        "code": "OK",
        "reason": "",
    }
    AuditLog(ArtifactStore(settings.store), settings.audit_days).write(entry)


def _owner(owner: str, scopes: list[Scope]) -> str:
    if not owner and Scope.ADMIN not in scopes:
        raise InvalidInput(
            "the token has no owner",
            code="OWNER_MISSING",
            field="owner",
            remedy="name the person or program that it is for with --owner",
        )
    return owner or "admin"


def _found(tokens: TokenStore, token: str) -> dict[str, object]:
    try:
        record = tokens.find(token)
    except ServiceError as error:
        return {"id": token, "state": error.message}
    return {"id": token, "state": "gone"} if record is None else _shown(record)


def _shown(record: TokenRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "owner": record.owner,
        "scopes": ", ".join(record.scopes),
        "created": _date(record.created),
        "expires": _date(record.expires) or "never",
        "state": _state(record),
        "note": record.note,
        "limits": record.limits.model_dump(exclude_none=True),
    }


def _state(record: TokenRecord) -> str:
    if record.revoked is not None:
        return "revoked"
    return "expired" if record.expired(time.time()) else "good"


def _date(moment: float | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
