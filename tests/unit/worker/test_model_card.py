"""Model cards: valid front matter and plain text, whatever names hold; in versions and exports."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.workshop import Workshop

from saeserve.core.formats.model import Lineage, ModelConfig, TensorSource, TopKActivation
from saeserve.core.specs.run_warning import RunWarning
from saeserve.registry.verifying import verified
from saeserve.registry.version import VersionManifest
from saeserve.worker.model_card import Facts, front_matter, model_card
from saeserve.worker.order import ExitCode
from saeserve.worker.runners import cards

FRONT = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")
"""How huggingface_hub finds the front matter."""
HOSTILE = ["a: b", "---", "x\n---\ny: 1", "| a", "`<b>`", "[x](javascript:1)", "null", "1e3", "'\""]
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(HOSTILE))


def config(source: str = "resid_post.2", **lineage: Any) -> ModelConfig:  # noqa: ANN401
    axis = (TensorSource(name=source, offset=0, d=4),)
    return ModelConfig(
        architecture="topk",
        d_in=4,
        d_out=4,
        d_sae=16,
        inputs=axis,
        outputs=axis,
        activation=TopKActivation(k=2),
        lineage=Lineage(**lineage),
    )


def front_of(card: str) -> dict[str, Any]:
    found = FRONT.match(card)
    assert found is not None
    fields: dict[str, Any] = yaml.safe_load(found[2])
    return fields


def one_line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_any_text_leaves_the_front_matter_valid_and_the_page_whole(
    name: str, base: str, source: str, dataset: str
) -> None:
    warning = RunWarning(code="FVU_HIGH", message=source)
    known = config(source, dataset=dataset, metrics={"fvu": 0.5}, warnings=(warning,))
    facts = Facts(name, known, base_model=base, base_licence=dataset)
    card = model_card(facts).decode()
    fields = front_of(card)
    assert fields == front_matter(facts)
    assert fields.get("datasets", [""]) == [one_line(dataset)]
    body = card[FRONT.match(card).end() :]  # type: ignore[union-attr]
    outside = re.sub(r"```python\n.*?\n```\n", "", body, flags=re.DOTALL)
    for line in outside.splitlines():
        bars = re.sub(r"\\.", "", line).count("|")
        assert bars in (0, 3, 4), line
    assert "`" not in re.sub(r"\\.", "", outside)
    assert not re.search(r"[<\[]", re.sub(r"\\.", "", outside))


def test_only_names_that_the_hub_could_have_are_links_to_a_base_model() -> None:
    assert front_matter(Facts("m", config(), base_model="org/lm"))["base_model"] == "org/lm"
    assert "base_model" not in front_matter(Facts("m", config(), base_model="my lm"))


@pytest.mark.parametrize(
    ("format", "library", "loads"),
    [
        ("", "saeserve", 'Client().encode("m", activations)'),
        ("saelens", "saelens", "SAE.load_from_disk"),
        ("sparsify", "sparsify", "SparseCoder.load_from_disk"),
        ("dictionary_learning", "dictionary_learning", "load_dictionary"),
    ],
)
def test_a_card_says_how_its_files_are_loaded(format: str, library: str, loads: str) -> None:
    card = model_card(Facts("m", config(), format=format)).decode()
    assert front_of(card)["library_name"] == library
    assert loads in card


def test_a_published_version_and_its_export_have_cards(shop: Workshop) -> None:
    shop.planted()
    assert shop.train("j-1") is ExitCode.FINISHED
    version = shop.model("m")
    card = (version.folder / "README.md").read_bytes()
    manifest = VersionManifest.model_validate_json((version.folder / "manifest.json").read_bytes())
    assert manifest.files["README.md"].sha256 == hashlib.sha256(card).hexdigest()
    assert front_of(card.decode())["datasets"] == ["planted"]
    fvu = version.config.lineage.metrics["fvu"]
    assert f"| fvu | {fvu:.6g} |" in card.decode()
    assert "| training tokens | 2560 |" in card.decode()
    verified(version.folder)
    shop.submit("e-1", "export_model", {"model": "m", "format": "saelens"})
    folder = shop.bench.ledger.store.path("exports/m/1/saelens")
    assert front_of((folder / "README.md").read_text())["tags"][-1] == "SAELens"


def test_equal_models_have_one_content_whatever_their_cards_say(tmp_path: Path) -> None:
    files = {
        "config.json": {"size": 1, "sha256": "a"},
        "model.safetensors": {"size": 1, "sha256": "b"},
    }
    base = {"format_version": 1, "job": "j", "index": 0, "created": 0.0}
    without = VersionManifest.model_validate({**base, "files": files})
    card = {"README.md": {"size": 1, "sha256": "c"}}
    with_card = VersionManifest.model_validate({**base, "files": {**files, **card}})
    assert with_card.content_sha256 == without.content_sha256
    assert with_card.size_bytes == without.size_bytes + 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("r:cache/models--org--lm/snapshots/abc", "org/lm"),
        ("r:lms/my-lm", "my-lm"),
        ("r:my-lm", "my-lm"),
    ],
)
def test_a_language_model_is_called_by_its_path(path: str, expected: str) -> None:
    assert cards.named(path) == expected


def test_a_language_model_says_its_own_name_and_licence(tmp_path: Path) -> None:
    assert (cards.origin(tmp_path), cards.licence(tmp_path)) == ("", "")
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "org/lm-1.0"}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# lm\n")
    assert (cards.origin(tmp_path), cards.licence(tmp_path)) == ("org/lm-1.0", "apache-2.0")
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "/data/lm"}))
    (tmp_path / "README.md").write_text("---\nlicense: [x\n---\n")
    assert (cards.origin(tmp_path), cards.licence(tmp_path)) == ("", "")
