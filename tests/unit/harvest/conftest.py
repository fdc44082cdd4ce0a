"""The tiny Llama as a folder, loaded, and behind roots; one thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from tests.fakes.tiny_models import CPU, save_model, tiny_llama

from saeserve.harvest.language_model import LanguageModel


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the folder `tiny`."""
    root = tmp_path_factory.mktemp("models")
    save_model(tiny_llama(), root / "tiny")
    return root


@pytest.fixture(scope="session")
def language_model(model_root: Path) -> LanguageModel:
    return LanguageModel.load(model_root / "tiny", None, CPU, "float32")


@pytest.fixture
def resolve(model_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Roots `models` (the tiny model) and `texts` (the test's own folder)."""
    roots = {"models": model_root, "texts": tmp_path / "texts"}
    roots["texts"].mkdir()

    def path(name: str) -> Path:
        root, _, relative = name.partition(":")
        return roots[root] / relative

    return path
