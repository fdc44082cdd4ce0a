"""Which names of a local path go with an upload for an import: the server reads places there."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.cli.interchange import told_folders


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("run/layers.5.mlp", ("run", "layers.5.mlp")),
        (
            "hub/models--google--gemma-scope-2b-pt-res/snapshots/0a1b/layer_8/width_16k/x_71",
            ("models--google--gemma-scope-2b-pt-res", "layer_8", "width_16k", "x_71"),
        ),
        ("résumé/my models/layers.3", ("layers.3",)),
        ("my folder", ()),
    ],
)
def test_the_last_plain_names_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, told: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert told_folders(folder) == told


def test_a_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("8.pt", "my model.pt"):
        (tmp_path / name).touch()
        assert told_folders(tmp_path / name) == (name,)


def test_a_path_of_the_server_s_has_none() -> None:
    assert told_folders(Path("lib:layers.3")) == ()
