"""`saeserve token`: made once, listed without their texts, revoked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saeserve.cli.__main__ import app
from saeserve.errors import FailedPrecondition, InvalidInput
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.tokens import id_in
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import MARKER, Marker

RUNNER = CliRunner()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    root = tmp_path / "store"
    root.mkdir()
    (root / MARKER).write_text(Marker.new().model_dump_json())
    monkeypatch.setenv("SAESERVE_STORE", str(root))
    return ArtifactStore(root)


def said(*words: str) -> str:
    done = RUNNER.invoke(app, ["token", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def listed() -> list[dict[str, Any]]:
    return json.loads(said("ls", "--json"))


def test_a_token_alone_is_on_stdout_and_its_record_is_kept(store: ArtifactStore) -> None:
    text = said("create", "--scope", "read", "--scope", "submit", "--owner", "alice").strip()
    record = TokenStore(store).find(id_in(text) or "")
    assert record is not None
    assert record.is_of(text)
    assert (record.owner, record.scopes) == ("alice", ("read", "submit"))
    assert record.expires is not None
    assert record.expires - record.created == pytest.approx(365 * 86_400)


def test_an_administrator_needs_no_owner_and_days_may_be_endless(store: ArtifactStore) -> None:
    made = json.loads(said("create", "--scope", "admin", "--days", "0", "--json"))
    assert (made["owner"], made["expires"], made["id"]) == ("admin", "never", id_in(made["token"]))


def test_others_have_an_owner(store: ArtifactStore) -> None:
    with pytest.raises(InvalidInput, match="no owner"):
        said("create", "--scope", "read")


def test_a_list_shows_what_became_of_each_and_no_text(store: ArtifactStore) -> None:
    good = said("create", "--scope", "encode", "--owner", "a", "--note", "notebook").strip()
    gone = said("create", "--scope", "encode", "--owner", "b").strip()
    said("revoke", id_in(gone) or "")
    damaged = said("create", "--scope", "encode", "--owner", "c").strip()
    store.path(f"auth/tokens/{id_in(damaged)}.json").write_text("{")
    states = {each["id"]: each["state"] for each in listed()}
    assert states[id_in(good)] == "good"
    assert [each["note"] for each in listed() if each["id"] == id_in(good)] == ["notebook"]
    assert states[id_in(gone)] == "revoked"
    assert "cannot be read" in states[id_in(damaged)]
    table = said("ls")
    assert (id_in(good) or "none") in table
    assert good.rpartition("_")[2] not in table


def test_a_folder_that_is_no_store_gets_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESERVE_STORE", str(tmp_path / "elsewhere"))
    with pytest.raises(FailedPrecondition, match="not the store of a deployment"):
        said("create", "--scope", "admin")
    assert not (tmp_path / "elsewhere").exists()


def test_making_and_revoking_is_audited(store: ArtifactStore) -> None:
    text = said("create", "--scope", "encode", "--owner", "a").strip()
    said("revoke", id_in(text) or "")
    [name] = store.names("audit")
    lines = store.path(f"audit/{name}").read_text()
    found = [json.loads(line) for line in lines.splitlines()]
    assert [line["method"] for line in found] == ["saeserve token create", "saeserve token revoke"]
    assert {line["what"]["id"] for line in found} == {id_in(text)}
    assert text.rpartition("_")[2] not in lines
