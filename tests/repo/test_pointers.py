"""References to the pages of the repository name headings that exist."""

from __future__ import annotations

import re

import pytest
from tests.repo.test_layout import GENERATED, ROOT, tracked

PAGES = ("DESIGN", "RECIPES", "KERNELS", "DECISIONS")
MENTION = re.compile(rf"\b(?:{'|'.join(PAGES)})\b")
POINTER = re.compile(
    rf'(?:docs/)?(?P<page>{"|".join(PAGES)})\.md,(?:\s|#)+"(?P<heading>[^"]+)"', re.DOTALL
)
SEARCHED = ("services/*.py", "services/*.lua", "protos/*.proto", "bench/*.py", "docs/*.md")


def headings(page: str) -> set[str]:
    folder = ROOT if page == "DECISIONS" else ROOT / "docs"
    return set(re.findall(r"^## (.+)$", (folder / f"{page}.md").read_text(), re.MULTILINE))


def pointers(text: str) -> list[tuple[str, str]]:
    return [(found["page"], " ".join(found["heading"].split())) for found in POINTER.finditer(text)]


def searched() -> list[tuple[str, str]]:
    paths = [path for path in tracked(*SEARCHED) if GENERATED not in path.parents]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


@pytest.mark.parametrize("page", PAGES)
def test_every_pointer_names_a_heading(page: str) -> None:
    found = [
        (path, heading)
        for path, text in searched()
        for name, heading in pointers(text)
        if name == page
    ]
    known = headings(page)
    assert [(path, heading) for path, heading in found if heading not in known] == []


def test_code_mentions_a_page_only_with_the_heading() -> None:
    bare = {
        path: len(MENTION.findall(text)) - len(pointers(text))
        for path, text in searched()
        if not path.startswith("docs/")
    }
    assert {path: count for path, count in bare.items() if count} == {}


def test_the_tree_has_pointers_to_follow() -> None:
    assert len([each for _, text in searched() for each in pointers(text)]) > 20


def test_links_between_pages_lead_to_files() -> None:
    for page in tracked("*.md", "docs/*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
