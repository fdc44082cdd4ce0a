"""Command lines that the pages of the repository show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.repo.test_layout import ROOT

PAGES = (
    *("README.md", "CONTRIBUTING.md", "docs/THREATS.md"),
    *("deploy/prometheus/RUNBOOK.md", "deploy/kubernetes/README.md"),
)


def blocks(page: Path, language: str = "", heading: str = "") -> list[str]:
    """Fenced blocks of one language, of the whole page or below one heading of level two."""
    text = page.read_text()
    if heading:
        text = re.split(rf"^## {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
        text = re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


def lines(block: str) -> list[str]:
    """Its command lines, continued lines joined and comments dropped."""
    joined = re.sub(r"\\\n\s*", "", block)
    stripped = (re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def commands(page: Path) -> list[list[str]]:
    """Words of every `saeserve …` that the page shows, in blocks and in running text."""
    text = page.read_text()
    shown = [line for block in blocks(page) for line in lines(block)]
    inline = re.findall(
        r"`((?:\.venv/bin/)?saeserve [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    # Behind -n it is the name of a namespace.
    command = r"(?:^|(?<!-n)\s|/)saeserve ([a-z-].*)$"
    found = [re.search(command, line) for line in [*shown, *inline]]
    return [shlex.split(each[1]) for each in found if each]


def modules(page: Path) -> set[str]:
    """Modules that the page runs by `python -m`."""
    text = " ".join(page.read_text().split())
    return set(re.findall(r"python -m ((?:bench|tests|saeserve)[\w.]*\w)", text))


def targets(page: Path) -> set[str]:
    """Targets of the Makefile that the page names."""
    text = page.read_text()
    return set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))


def existing() -> list[Path]:
    """The pages, as paths."""
    return [ROOT / page for page in PAGES]
