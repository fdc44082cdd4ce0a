"""deploy/compose/secrets.sh refuses given files that could not serve, and changes none of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.fakes.certificates import Authority, CertificateFiles, self_signed
from tests.repo.test_compose_secrets import FILES, made, run

from saeserve.errors import StartupError
from saeserve.platform.certificates import read_pair
from saeserve.platform.secret_files import PLACEHOLDERS, read_secret

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on PATH")

NAMES = ("localhost", "127.0.0.1", "control", "inference")
LATER = timedelta(days=90)
STRONG = "k7Wq-92hZ_bT4xv0"


def put(folder: Path, pair: CertificateFiles, ca: Path) -> None:
    """Put a pair of files and a CA there, as an operator does."""
    (folder / "tls").mkdir(parents=True, exist_ok=True)
    for source, name in (
        (pair.certificate, "server.pem"),
        (pair.key, "server.key"),
        (ca, "ca.pem"),
    ):
        target = folder / "tls" / name
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o444)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "ca").mkdir()
    return Authority(tmp_path / "ca")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes, to be copied."""
    folder = tmp_path_factory.mktemp("filled") / "secrets"
    made(folder)
    return folder


def copy(filled: Path, folder: Path) -> None:
    """With owners, whom the script looks at."""
    subprocess.run(["cp", "-a", str(filled), str(folder)], check=True)


def give(folder: Path, authority: Authority, *names: str, lasts: timedelta = LATER) -> None:
    pair = authority.issue(*(names or NAMES), expires=datetime.now(UTC) + lasts)
    put(folder, pair, authority.ca)


def replace(folder: Path, name: str, content: str, mode: int = 0o444) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(content)
    (folder / name).chmod(mode)


def refusal(folder: Path, **environment: str) -> str:
    """What is said where the files cannot serve; they are left as they are."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = run(folder, **environment)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("secrets.sh: ")
    assert len(ended.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before
    return ended.stderr


def test_files_of_a_ca_of_ones_own_are_taken_without_a_word(
    folder: Path, authority: Authority
) -> None:
    give(folder, authority)
    (folder / "redis.password").write_text(STRONG + "\n")
    (folder / "redis.password").chmod(0o444)
    ended = run(folder)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not (folder / "ca.key").exists()


def expired(folder: Path, authority: Authority) -> None:
    give(folder, authority, lasts=timedelta(days=-1))


def of_another_key(folder: Path, authority: Authority) -> None:
    give(folder, authority)
    replace(folder, "tls/server.key", authority.issue(*NAMES).key.read_text())


def of_another_ca(folder: Path, authority: Authority) -> None:
    give(folder, authority)
    replace(folder, "tls/ca.pem", trustme.CA().cert_pem.bytes().decode())


def not_yet_valid(folder: Path, authority: Authority) -> None:
    pair = self_signed(authority.ca.parent, begins_in=timedelta(hours=12))
    put(folder, pair, pair.certificate)


def of_a_short_key(folder: Path, authority: Authority) -> None:
    pair = self_signed(authority.ca.parent, rsa_bits=1024)
    put(folder, pair, pair.certificate)


def with_a_passphrase(folder: Path, authority: Authority) -> None:
    pair = self_signed(authority.ca.parent, passphrase=b"hidden")
    put(folder, pair, pair.certificate)


def no_certificate(folder: Path, authority: Authority) -> None:
    give(folder, authority)
    replace(folder, "tls/server.pem", "not PEM")


def no_key(folder: Path, authority: Authority) -> None:
    give(folder, authority)
    replace(folder, "tls/server.key", "")


UNUSABLE: dict[str, tuple[Callable[[Path, Authority], None], str]] = {
    "expired": (expired, "server.pem expired on"),
    "another key": (of_another_key, "server.key is not the key of tls/server.pem"),
    "not yet valid": (not_yet_valid, "not yet valid"),
    "short key": (of_a_short_key, "RSA key of 1024 bits"),
    "passphrase": (with_a_passphrase, "server.key holds no private key in PEM form without"),
    "no certificate": (no_certificate, "server.pem holds no certificate"),
    "no key": (no_key, "server.key holds no private key"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_a_service_would_not_start_with_is_refused(
    folder: Path, authority: Authority, case: str
) -> None:
    make, words = UNUSABLE[case]
    make(folder, authority)
    assert words in refusal(folder)
    with pytest.raises(StartupError):
        read_pair(folder / "tls/server.pem", folder / "tls/server.key")


def test_a_certificate_of_another_ca_than_clients_trust_is_refused(
    folder: Path, authority: Authority
) -> None:
    of_another_ca(folder, authority)
    assert "clients that trust" in refusal(folder)


def test_an_intermediate_ca_in_the_chain_is_taken(folder: Path, tmp_path: Path) -> None:
    root = trustme.CA()
    leaf = root.create_child_ca().issue_cert(*NAMES)
    chain, key, ca = (tmp_path / name for name in ("chain", "key", "root"))
    chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(key))
    root.cert_pem.write_to_path(str(ca))
    put(folder, CertificateFiles(chain, key), ca)
    assert run(folder).returncode == 0
    replace(folder, "tls/server.pem", leaf.cert_chain_pems[0].bytes().decode())
    assert "issuer certificate" in refusal(folder)


@pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.pem"])
def test_a_file_that_is_missing_is_named(folder: Path, authority: Authority, name: str) -> None:
    give(folder, authority)
    (folder / "tls" / name).unlink()
    assert f"tls/{name} is missing" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["tls/server.pem", "tls/server.key", "tls/ca.pem", "redis.password"]
)
def test_a_file_that_the_containers_could_not_read_is_named(
    folder: Path, authority: Authority, name: str
) -> None:
    give(folder, authority)
    replace(folder, "redis.password", STRONG)
    (folder / name).chmod(0o600)
    assert f"{name} cannot be read by uid 10001" in refusal(folder)


def test_a_folder_in_the_place_of_a_file_is_named(folder: Path, authority: Authority) -> None:
    give(folder, authority)
    # What a container engine makes where a file that it mounts is missing.
    (folder / "redis.password").mkdir()
    assert "redis.password is not a file" in refusal(folder)


def test_names_that_were_asked_for_have_to_be_in_a_given_certificate(
    folder: Path, authority: Authority
) -> None:
    give(folder, authority, *NAMES, "sae.example.org", "*.wild.example", "192.0.2.7")
    asked = "DNS:sae.example.org,DNS:*.wild.example,DNS:one.wild.example,IP:192.0.2.7"
    assert run(folder, TLS_NAMES=asked).returncode == 0
    assert "DNS:other.example" in refusal(folder, TLS_NAMES=f"{asked},DNS:other.example")
    assert "IP:192.0.2.8" in refusal(folder, TLS_NAMES="IP:192.0.2.8")


def test_names_that_only_some_clients_need_are_noted(folder: Path, authority: Authority) -> None:
    give(folder, authority, "sae.example.org", "localhost")
    ended = run(folder)
    assert ended.returncode == 0
    assert "not valid for DNS:control DNS:inference IP:127.0.0.1" in ended.stderr


def test_a_certificate_without_names_is_refused(folder: Path, authority: Authority) -> None:
    pair = self_signed(authority.ca.parent)
    put(folder, pair, pair.certificate)
    assert "has no subjectAltName" in refusal(folder)


def test_a_given_certificate_that_ends_soon_is_noted(folder: Path, authority: Authority) -> None:
    give(folder, authority, lasts=timedelta(days=8))
    ended = run(folder)
    assert ended.returncode == 0
    assert "server.pem ends on" in ended.stderr


def test_a_given_certificate_is_judged_also_beside_a_ca_that_was_made(
    folder: Path, authority: Authority
) -> None:
    made(folder)
    pair = authority.issue("sae.example.org", expires=datetime.now(UTC) - timedelta(days=1))
    put(folder, pair, authority.ca)
    assert "server.pem expired on" in refusal(folder, TLS_NAMES="DNS:other.example")


WEAK = (
    *("", "\n", "brief", "two words of text", "tab\tbetween-it", "two\nlines-of-text-here"),
    *("aaaaaaaaaaaaaaaa", "ab" * 10, "abcabcabcabcabcabc", "aabbccddeeaabbccddee"),
)


@pytest.mark.parametrize("secret", [*WEAK, *(f"x9Kq-{part}-7wZt" for part in PLACEHOLDERS)])
def test_a_password_that_the_services_refuse_is_refused_before_valkey_starts(
    folder: Path, filled: Path, secret: str
) -> None:
    copy(filled, folder)
    replace(folder, "redis.password", secret)
    with pytest.raises(StartupError):
        read_secret(folder / "redis.password")
    said = refusal(folder)
    assert "redis.password" in said
    assert "openssl rand -hex 32" in said
    assert not secret.strip() or secret.strip() not in said.replace("redis.password", "")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_password_that_the_services_take_is_taken(folder: Path, filled: Path, end: str) -> None:
    copy(filled, folder)
    (folder / "redis.password").unlink()
    (folder / "redis.password").write_bytes((STRONG + end).encode())
    (folder / "redis.password").chmod(0o444)
    assert read_secret(folder / "redis.password") == STRONG
    assert made(folder)["redis.password"] == (STRONG + end).encode()


def test_what_the_script_made_stands_its_own_check(folder: Path) -> None:
    first = run(folder)
    assert (first.returncode, first.stderr) == (0, "")
    second = run(folder)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert {path.name for path in (folder / "tls").iterdir()} == {
        "ca.pem",
        "server.pem",
        "server.key",
    }
    assert os.access(folder / FILES[0], os.R_OK)
