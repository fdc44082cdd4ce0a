"""A user's mistakes end with one line that names what is wrong, and an exit code that is not 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.terminal import Ran, run_here

Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Commands in a folder of their own; no service answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAESERVE_CONTROL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("SAESERVE_INFERENCE_ADDRESS", "127.0.0.1:1")
    return lambda *words: run_here(monkeypatch, capsys, *words)


def write_bad_files(folder: Path) -> None:
    rows = np.ones((4, 8), np.float32)
    np.save(folder / "good.npy", rows)
    np.savez(folder / "x.npz", rows=rows)
    np.savez(folder / "renamed", rows=rows)
    (folder / "renamed.npz").rename(folder / "renamed.npy")
    np.save(folder / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "whole.npy", np.ones((4, 8), np.int64))
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-40])
    (folder / "head.npy").write_bytes(whole[:20])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("hello")
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "folder.npy").mkdir()


BAD_ARRAYS = {
    "nothere.npy": "there is no",
    "x.npz": "neither .npy nor .safetensors",
    "renamed.npy": "archive",
    "object.npy": "Python objects",
    "whole.npy": "int64",
    "cut.npy": "cut short",
    "head.npy": "cut short",
    "empty.npy": "empty",
    "text.npy": "not a .npy file",
    "model.safetensors": "cannot be read as .safetensors: it holds no tensors",
    "folder.npy": "folder",
}


@pytest.mark.parametrize("words", [("encode", "m"), ("reconstruct", "m", "--out", "y.npy")])
@pytest.mark.parametrize(("name", "cause"), BAD_ARRAYS.items())
def test_files_that_are_no_rows(
    words: tuple[str, ...], name: str, cause: str, run: Run, tmp_path: Path
) -> None:
    write_bad_files(tmp_path)
    ran = run(words[0], words[1], name, *words[2:])
    assert ran.code == 1
    assert name in ran.line
    assert cause in ran.line
    assert "allow_pickle" not in ran.line
    assert not (tmp_path / "y.npy").exists()


BAD_FEATURES = BAD_ARRAYS | {
    "x.npz": "x.npz holds no features: it lacks indices, offsets, shape, values",
    "renamed.npy": "renamed.npy holds no features: it lacks indices, offsets, shape, values",
    "other.json": "other.json holds no features: it lacks indices, offsets, shape, values",
    "cut.json": "cut.json holds no features: ",
    "cut.npz": "cut.npz holds no features: ",
    "rows.txt": "rows.txt holds no features: it is neither an archive nor JSON nor an array",
    "empty.npz": "empty.npz holds no features: it is empty",
}


@pytest.mark.parametrize(("name", "cause"), BAD_FEATURES.items())
def test_files_that_are_no_features(name: str, cause: str, run: Run, tmp_path: Path) -> None:
    write_bad_files(tmp_path)
    (tmp_path / "other.json").write_text('{"model": "m"}')
    (tmp_path / "cut.json").write_text('{"shape": [4, ')
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:90])
    (tmp_path / "rows.txt").write_text("1 2 3")
    (tmp_path / "empty.npz").write_bytes(b"")
    ran = run("decode", "m", name, "--out", "y.npy")
    assert ran.code == 1
    assert name in ran.line
    assert cause in ran.line
    assert not (tmp_path / "y.npy").exists()


def test_dense_features_of_a_file_are_sent(run: Run, tmp_path: Path) -> None:
    write_bad_files(tmp_path)
    assert "no answer from" in run("decode", "m", "good.npy", "--out", "y.npy").line


@pytest.mark.parametrize("out", ["/nope/x.npz", "there", "/proc/x.npz"])
def test_an_output_that_cannot_be_written(out: str, run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((4, 8), np.float32))
    (tmp_path / "there").mkdir()
    ran = run("encode", "m", "good.npy", "--out", out)
    assert ran.code == 1
    assert f"{out} cannot be written" in ran.line


def test_what_was_at_the_output_stays_when_the_call_fails(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((4, 8), np.float32))
    (tmp_path / "f.bin").write_text("before")
    ran = run("encode", "m", "good.npy", "--out", "f.bin")
    assert ran.code == 1
    assert "no answer from" in ran.line
    assert (tmp_path / "f.bin").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.bin", "good.npy"]


JOB_FILES = {
    "binary.yaml": (b"\xff\xfe\x00train", "not text"),
    "twice.yaml": (b"train:\n  seed: 1\n  seed: 2\n", "line 3, column 3: seed stands there twice"),
    "broken.yaml": (b"train: {a: [1\n", "not YAML"),
    "python.yaml": (b"train: !!python/object/apply:os.system [ls]", "not YAML"),
    "list.yaml": (b"- 1\n", "list, not a mapping"),
    "empty.yaml": (b"", "not a mapping"),
    "flat.yaml": (b"train: 3\n", "should have fields"),
    "two.yaml": (b"train: {}\nharvest: {}\n", "train, harvest"),
    "date.yaml": (b"train: {seed: 2024-99-99}\n", "not YAML"),
}


@pytest.mark.parametrize("words", [("submit", "train", "-f"), ("plan", "-f")])
@pytest.mark.parametrize("name", JOB_FILES)
def test_job_files_that_are_none(words: tuple[str, ...], name: str, run: Run) -> None:
    data, cause = JOB_FILES[name]
    Path(name).write_bytes(data)
    ran = run(*words, name)
    assert ran.code == 1
    assert cause in ran.line


def test_job_files_that_are_not_there(run: Run) -> None:
    Path("folder").mkdir()
    assert "no file job.yaml" in run("plan", "-f", "job.yaml").line
    assert "folder is a folder" in run("submit", "train", "-f", "folder").line


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--tokens", "inf"), "train.tokens is 'inf'; write a whole number such as 50000"),
        (("--tokens", "nan"), "train.tokens"),
        (("--tokens", "1e30"), "the largest is"),
        (("--tokens", "1.5"), "train.tokens"),
        (("--d-sae", "many"), "train.d_sae"),
        (("--set", "a={"), "--set a={: the value is not YAML"),
        (("--set", "nothing"), "write it as path=value"),
        (("--set", "=3"), "write it as path=value"),
        (("--set", "dataset.x=1"), "dataset is 'd' and has no fields"),
        (("--set", "batchsize=1"), "did you mean batch_size?"),
        (("--set", "dSea=1"), "did you mean d_sae?"),
        (("--set", "lr=1"), "did you mean optimizer.lr"),
        (("--set", "topk=1"), "train.topk is 1, and has fields: k, "),
        (("--sweep", "k"), "write it as k=16,32,64"),
    ],
)
def test_flags_with_values_that_fit_nothing(words: tuple[str, ...], cause: str, run: Run) -> None:
    ran = run("submit", "train", "--dataset", "d", *words)
    assert ran.code == 1
    assert cause in ran.line


def test_refusals_are_json_where_json_was_asked_for(run: Run) -> None:
    ran = run("encode", "m", "nothere.npy", "--json")
    assert ran.code == 1
    assert "nothere.npy" in json.loads(ran.line)["error"]["message"]


def test_a_mistyped_file_name_is_told_as_such_and_nothing_is_uploaded(run: Run) -> None:
    np.save("activations.npy", np.ones((4, 8), np.float32))
    ran = run("datasets", "import", "d", "activations.npy", "actvations.npy")
    assert ran.code == 1
    assert "there is no file actvations.npy on this machine" in ran.line
    assert "did you mean activations.npy?" in ran.line
    assert "root" not in ran.line
    Path("folder").mkdir()
    assert "folder is a folder" in run("datasets", "import", "d", "folder").line


@pytest.mark.parametrize("version", ["0", "-1"])
def test_an_alias_of_version_0_is_refused(version: str, run: Run) -> None:
    ran = run("models", "alias", "my-sae", "prod", "--", version)
    assert ran.code != 0
    assert "no answer" not in ran.err
    assert "version" in ran.err


def test_top_must_be_positive(run: Run) -> None:
    ran = run("encode", "m", "x.npy", "--top", "0")
    assert ran.code == 2
    assert "--top" in ran.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_a_short_flag_in_every_command(flag: str, run: Run) -> None:
    for words in ((), ("jobs",), ("submit", "train")):
        ran = run(*words, flag)
        assert ran.code == 0
        assert "--help" in ran.out


def test_the_version_is_printed(run: Run) -> None:
    ran = run("--version")
    assert ran.code == 0
    assert ran.out.startswith("saeserve 0.")
