from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.errors import InvalidInput, NotFound
from saeserve.registry.roots import Roots


def test_resolves_a_file_below_its_root(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a.npy").write_bytes(b"1")
    assert Roots({"acts": root}).resolve("acts:sub/a.npy") == root.resolve() / "sub" / "a.npy"


@pytest.mark.parametrize(
    "reference",
    [
        "a.npy",
        "acts:",
        ":a.npy",
        "acts:/etc/passwd",
        "acts:../x",
        "acts:a/../../x",
        "acts:a\\..\\x",
    ],
)
def test_refuses_what_is_no_reference(root: Path, reference: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Roots({"acts": root}).resolve(reference, "files[0]")
    assert caught.value.field == "files[0]"


def test_names_the_roots_there_are(root: Path) -> None:
    with pytest.raises(InvalidInput, match="known roots: acts") as caught:
        Roots({"acts": root}).resolve("other:a.npy")
    assert caught.value.code == "UNKNOWN_ROOT"


def test_refuses_a_link_that_leads_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.npy").write_bytes(b"1")
    (root / "link.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InvalidInput) as caught:
        Roots({"acts": root}).resolve("acts:link.npy")
    assert caught.value.code == "PATH_ESCAPES_ROOT"


@pytest.mark.parametrize(
    "relative", ["x" * 256, f"{'x' * 256}/a.npy", "y/" * 2500 + "a.npy", "é" * 128, "circle/a.npy"]
)
def test_what_the_system_cannot_look_up_is_a_bad_path(root: Path, relative: str) -> None:
    (root / "circle").symlink_to(root / "circle")
    with pytest.raises(InvalidInput) as caught:
        Roots({"acts": root}).resolve(f"acts:{relative}", "files[0]")
    assert (caught.value.code, caught.value.field) == ("BAD_PATH", "files[0]")
    assert str(root) not in caught.value.text()
    assert len(caught.value.message) < 400


def test_follows_a_link_that_stays_inside(root: Path) -> None:
    (root / "a.npy").write_bytes(b"1")
    (root / "link.npy").symlink_to(root / "a.npy")
    assert Roots({"acts": root}).resolve("acts:link.npy").name == "a.npy"


def test_says_what_is_missing(root: Path) -> None:
    with pytest.raises(NotFound, match=r"acts:gone\.npy"):
        Roots({"acts": root}).resolve("acts:gone.npy")


def test_present_asks_whether_the_root_is_mounted(root: Path, tmp_path: Path) -> None:
    roots = Roots({"acts": root, "far": tmp_path / "absent"})
    assert roots.present("acts:gone.npy")
    assert not roots.present("far:a.npy")
