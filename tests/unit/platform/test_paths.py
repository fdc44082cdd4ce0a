"""Clients are told of keys and roots, never of folders of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.errors import InvalidInput
from saeserve.platform.paths import PathCover
from saeserve.platform.status import rpc_status

COVER = PathCover.of(
    Path("/srv/sae/store"), {"lib": Path("/mnt/lib"), "nested": Path("/srv/sae/store/roots/n")}
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/srv/sae/store/jobs/j-1/job.json: is missing", "store/jobs/j-1/job.json: is missing"),
        ("'/mnt/lib/a b.npy' is no array", "'lib:a b.npy' is no array"),
        ("in /srv/sae/store", "in store/"),
        ("in /srv/sae/store.", "in store/."),
        ("/srv/sae/store/roots/n/x and /mnt/lib/y", "nested:x and lib:y"),
        ("/mnt/library/x", "/mnt/library/x"),
        ("/backup/mnt/lib/x", "/backup/mnt/lib/x"),
        ("files:/etc/passwd leaves its root", "files:/etc/passwd leaves its root"),
    ],
)
def test_known_folders_are_replaced(text: str, wanted: str) -> None:
    assert COVER.covered(text) == wanted


def test_a_linked_folder_is_known_by_both_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cover = PathCover.of(tmp_path / "link", {})
    for spelling in ("real", "link"):
        assert cover.covered(f"{tmp_path / spelling}/x is missing") == "store/x is missing"


def test_no_text_of_a_status_shows_a_folder() -> None:
    error = InvalidInput("no /mnt/lib/x", field="path", remedy="look into /srv/sae/store/models")
    told = rpc_status(error, COVER).SerializeToString()
    assert b"/mnt" not in told
    assert b"/srv" not in told
    assert b"lib:x" in told
