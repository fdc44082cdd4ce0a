"""The Hub's commands before any server is called: names, tokens, formats, and the card."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.cli.cards import with_evaluation
from saeserve.cli.hub import access
from saeserve.cli.hub.layouts import LAYOUTS, layout_of, others_than
from saeserve.cli.hub.pulling import checked_folder
from saeserve.client.errors import InvalidArgumentError, PreconditionError, UnauthenticatedError
from saeserve.client.evaluations import EvaluationMetric
from saeserve.client.values import JobOutput
from saeserve.core.peers.registry import IMPORTERS

STORED = "---\ntags: [x]\n---\n\n# sae\n\n| a | b |\n\n## Figures\n\n| fvu | 0.1 |\n"
WARNINGS, USE = "\n## Warnings\n\n- L0_DENSE: x\n", "\n## Use\n\ncode\n"


def output(results: tuple[EvaluationMetric, ...], **metrics: float) -> JobOutput:
    report = {"model": "models/sae/versions/1", "dataset": "acts", "metrics": metrics}
    return JobOutput("", "", report, "", metrics, results)


def metric(name: str, value: float, stratum: str = "") -> EvaluationMetric:
    return EvaluationMetric(
        name, f"{name}/1", value, "nats", 8192, "predicted tokens", 0.1, 0.2, stratum
    )


def test_every_format_that_is_imported_is_known_by_its_files_but_single_ones() -> None:
    assert set(LAYOUTS) == {"saeserve", *IMPORTERS} - {"openai"}


@given(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(["", "layer_1", "a/b"]))
def test_a_format_is_told_by_its_files(format: str, folder: str) -> None:
    names = {f"{folder}/{name}" if folder else name for name in LAYOUTS[format]}
    found = layout_of({*names, "README.md", "x/notes.txt"}, folder, None, "a/b")
    assert found.format == format
    assert set(found.names) == names
    assert layout_of(names, folder, format, "a/b") == found
    if folder:
        with pytest.raises(PreconditionError, match=f"--path: {folder}"):
            layout_of(names, "", None, "a/b")


def test_a_folder_of_two_formats_is_not_guessed() -> None:
    names = {*LAYOUTS["saelens"], *LAYOUTS["sparsify"]}
    with pytest.raises(PreconditionError, match="saelens or sparsify"):
        layout_of(names, "", None, "a/b")
    assert layout_of(names, "", "sparsify", "a/b").names == LAYOUTS["sparsify"]
    assert others_than("saelens", names) == ["sparsify"]


def test_a_language_model_is_no_model_of_ours() -> None:
    with pytest.raises(PreconditionError, match="holds no SAE"):
        layout_of({"config.json", "model.safetensors"}, "", None, "a/b")
    with pytest.raises(PreconditionError, match="of the format openai"):
        layout_of({"x.pt"}, "", "openai", "a/b")
    assert layout_of({"x.pt"}, "x.pt", "openai", "a/b").names == ("x.pt",)


@pytest.mark.parametrize("text", ["a", "a/b/c", "../b", "a/..", "a b/c", "a/b@c", "-a/b", ""])
def test_what_cannot_name_a_repository_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        access.repository(text)


@pytest.mark.parametrize("text", ["", "/a", "a/", "a..b", "a b", "a//b"])
def test_what_cannot_name_a_revision_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        access.revision(text, "branch")


def test_a_folder_stays_within_its_repository() -> None:
    assert checked_folder("/layer_8/width/") == "layer_8/width"
    for text in ("..", "a/../b", "a//b", "a\\b"):
        with pytest.raises(InvalidArgumentError):
            checked_folder(text)


def test_a_token_comes_from_a_file_or_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert access.hub_api(None).token is False
    with pytest.raises(UnauthenticatedError, match="hf auth login"):
        access.hub_api(None, needs_token=True)
    path = tmp_path / "token"
    path.write_text("hf_secret\n")
    assert access.hub_api(path, needs_token=True).token == "hf_secret"
    path.write_text("hf_secret and more")
    with pytest.raises(InvalidArgumentError) as raised:
        access.hub_api(path)
    assert "hf_secret" not in str(raised.value)
    with pytest.raises(InvalidArgumentError, match="there is no file"):
        access.hub_api(tmp_path / "absent")


@pytest.mark.parametrize("end", ["", USE, WARNINGS, WARNINGS + USE])
def test_a_card_gains_a_section_for_the_evaluation(end: str) -> None:
    results = (
        metric("ce_delta_nats", 0.15),
        metric("ce_delta_nats", 9.0, "positions 1-7"),
        metric("loss_recovered_mean", 0.98),
        metric("cosine", 0.9),
    )
    card = with_evaluation(STORED + end, "j-1", output(results, ce_delta_nats=0.15, l0=3.5))
    assert card.startswith(STORED)
    assert card.endswith(end)
    section = card.removeprefix(STORED).removesuffix(end)
    assert section.startswith("\n## Evaluation\n")
    assert "data set `acts`, by job `j-1`" in section
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert [row.split()[1] for row in rows] == ["l0", "ce_delta_nats", "loss_recovered_mean"]
    assert "| 0.15 nats | 0.1 … 0.2 | 8,192 predicted tokens |" in rows[1]
