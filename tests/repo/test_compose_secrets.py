"""deploy/compose/secrets.sh makes what docker-compose.yml mounts, and leaves what is there."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.repo.deploy_files import ROOT, load

from saeserve.platform.certificates import read_pair
from saeserve.platform.secret_files import read_secret

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on PATH")

SCRIPT = ROOT / "deploy/compose/secrets.sh"
FILES = ("tls/ca.pem", "tls/server.pem", "tls/server.key", "redis.password", "redis.acl", "ca.key")


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT],
        env={**os.environ, "SAESERVE_SECRETS": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def made(folder: Path, **environment: str) -> dict[str, bytes]:
    """What the files hold after a run."""
    ended = run(folder, **environment)
    assert ended.returncode == 0, ended.stderr
    return {name: (folder / name).read_bytes() for name in FILES}


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls/server.pem").read_bytes())


def names(folder: Path) -> set[str]:
    found = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(each.value) for each in found.value}


def expiring(folder: Path) -> None:
    """Put a certificate of the folder's own CA there that ends in a week."""
    script = SCRIPT.read_text().replace("days=397", "days=7")
    (folder / "tls/server.pem").unlink()
    (folder / "tls/server.key").unlink()
    environment = {**os.environ, "SAESERVE_SECRETS": str(folder)}
    subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True)


def test_the_servers_certificate_is_of_the_ca_and_for_the_services_names(tmp_path: Path) -> None:
    made(tmp_path)
    read_pair(tmp_path / "tls/server.pem", tmp_path / "tls/server.key")
    authority = x509.load_pem_x509_certificate((tmp_path / "tls/ca.pem").read_bytes())
    found = certificate(tmp_path)
    found.verify_directly_issued_by(authority)
    assert names(tmp_path) == {"localhost", "control", "inference", "127.0.0.1", "::1"}
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.SERVER_AUTH in usage
    assert found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=390)


def test_further_names_are_taken(tmp_path: Path) -> None:
    made(tmp_path, TLS_NAMES="DNS:sae.example.org,IP:192.0.2.7")
    assert {"sae.example.org", "192.0.2.7", "localhost"} <= names(tmp_path)


def test_further_names_make_a_new_certificate_and_stay(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, TLS_NAMES="DNS:sae.example.org")
    assert "sae.example.org" in names(tmp_path)
    expiring(tmp_path)
    made(tmp_path)
    assert "sae.example.org" in names(tmp_path)


def test_valkey_gets_the_hash_of_the_password_that_the_services_read(tmp_path: Path) -> None:
    made(tmp_path)
    password = read_secret(tmp_path / "redis.password")
    lines = (tmp_path / "redis.acl").read_text().splitlines()
    assert lines[0] == "user default on nopass -@all +ping"
    assert lines[1].startswith(
        f"user saeserve on #{hashlib.sha256(password.encode()).hexdigest()} "
    )
    assert password not in "".join(lines)


def test_another_run_changes_nothing(tmp_path: Path) -> None:
    assert made(tmp_path) == made(tmp_path)


def test_a_changed_password_reaches_the_list_of_users(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "redis.password").chmod(0o600)
    (tmp_path / "redis.password").write_text("another-long-random-text\n")
    digest = hashlib.sha256(b"another-long-random-text").hexdigest()
    assert f"#{digest} " in made(tmp_path)["redis.acl"].decode()


def test_a_certificate_of_the_own_ca_is_renewed_before_it_ends(tmp_path: Path) -> None:
    before = made(tmp_path)
    expiring(tmp_path)
    assert certificate(tmp_path).not_valid_after_utc - datetime.now(UTC) < timedelta(days=8)
    after = made(tmp_path)
    assert certificate(tmp_path).not_valid_after_utc - datetime.now(UTC) > timedelta(days=390)
    assert after["tls/ca.pem"] == before["tls/ca.pem"]


def test_certificates_that_were_given_stay_as_they_are(tmp_path: Path) -> None:
    made(tmp_path)
    expiring(tmp_path)
    (tmp_path / "ca.key").unlink()
    before = {name: (tmp_path / name).read_bytes() for name in FILES[:3]}
    assert run(tmp_path).returncode == 0
    assert {name: (tmp_path / name).read_bytes() for name in FILES[:3]} == before


def test_a_ca_without_its_key_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path)
    for name in ("ca.key", "tls/server.pem", "tls/server.key"):
        (tmp_path / name).unlink()
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert "ca.pem has no key here" in ended.stderr


def test_others_on_this_host_do_not_get_to_the_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    made(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    # Only root can give a file to the user of the containers; else the folder alone protects it.
    expected = (10001, 0o400) if os.getuid() == 0 else (os.getuid(), 0o444)
    for name in ("tls/server.key", "redis.password"):
        found = (folder / name).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == expected


def test_what_is_made_is_what_the_compose_file_mounts(tmp_path: Path) -> None:
    made(tmp_path)
    compose = load("docker-compose.yml")
    sources = [
        *(each["file"] for each in compose["secrets"].values()),
        *(
            each["source"]
            for service in compose["services"].values()
            for each in service.get("volumes", ())
            if not isinstance(each, str)
        ),
    ]
    mounted = {each.removeprefix("./secrets/") for each in sources if "/secrets/" in each}
    assert mounted == {"redis.password", "redis.acl", "admin.token", "tls", "tls/ca.pem"}
    # The token comes last: make up asks the running control for it.
    assert all((tmp_path / each).exists() for each in mounted - {"admin.token"})
