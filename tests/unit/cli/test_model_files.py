"""What goes with the upload of a local model for an import: the server reads its place there."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.cli.model_files import sent_beside, sent_folders


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
    assert sent_folders(folder) == told


def test_a_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("8.pt", "my model.pt"):
        (tmp_path / name).touch()
        assert sent_folders(tmp_path / name) == (name,)


def test_a_path_of_the_server_s_has_none() -> None:
    assert sent_folders(Path("lib:layers.3")) == ()


@pytest.mark.parametrize(
    ("folder", "name", "sent"),
    [
        ("run/layers.5.mlp", "model/run/layers.5.mlp", "model/run/config.json"),
        ("run/layers.5.mlp/seed1", "model/run/layers.5.mlp/seed1", "model/run/config.json"),
        ("run/layers.5.mlp", "model", ""),
    ],
)
def test_the_run_s_config_goes_along(tmp_path: Path, folder: str, name: str, sent: str) -> None:
    local = tmp_path / folder
    local.mkdir(parents=True)
    config = tmp_path / "run" / "config.json"
    assert sent_beside(local, name) == {}
    for other in ("{", "[]", '{"sae": 1}'):
        config.write_text(other)
        assert sent_beside(local, name) == {}
    config.write_text('{"sae": {}, "transcode": true}')
    assert sent_beside(local, name) == ({sent: config} if sent else {})
