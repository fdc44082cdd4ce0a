"""Pages as files: the file of each address, and links that lead from file to file."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable

INDEX = "index.html"
_LINK = re.compile(r' (href|src|srcset)="([^"]*)"')
"""An attribute of our own templates: in text, quotes are escaped."""
_KEPT = re.compile(r"[^A-Za-z0-9._@-]+")
_LONGEST = 100
_PICTURES = (".svg", ".css", ".js")


def file_of(address: str) -> str:
    """The name of the file of an address, path and query; different addresses have different
    files, on any file system."""
    path, _, query = address.partition("?")
    if path.startswith("/static/"):
        return path.removeprefix("/static/")
    stem, dot, ending = path.rpartition(".")
    picture = dot + ending in _PICTURES
    words = _KEPT.sub("-", stem if picture else path).strip("-.")[:_LONGEST]
    # What was replaced or cut, or upper case, may be all that sets two addresses apart.
    digest = hashlib.sha256(f"{path}?{query}".encode()).hexdigest()[:8]
    return f"{words}-{digest}{dot + ending if picture else '.html'}"


def links_of(page: str) -> list[str]:
    """Addresses within the explorer that a page names, once each, in their order."""
    found = (html.unescape(match[2]) for match in _LINK.finditer(page))
    return list(dict.fromkeys(address for address in found if address.startswith("/")))


def relinked(page: str, name_of: Callable[[str], str | None]) -> str:
    """The page with each address replaced by its file. Where there is none, the attribute is left
    out: an anchor without `href` is plain text."""

    def replace(match: re.Match[str]) -> str:
        address = html.unescape(match[2])
        if not address.startswith("/"):
            return match[0]
        name = name_of(address)
        return "" if name is None else f' {match[1]}="{html.escape(name)}"'

    return _LINK.sub(replace, page)
