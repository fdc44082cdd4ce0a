"""Pages as files: every address has a file of its own, and links lead to files alone."""

from __future__ import annotations

import html

from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve.explorer.static_pages import file_of, links_of, relinked

ADDRESSES = st.from_regex(
    r"/[a-zA-Z0-9%@./~-]{0,130}(\?[a-z]+=[a-zA-Z0-9%&]{0,9})?", fullmatch=True
)


@settings(max_examples=30)
@given(st.lists(ADDRESSES, unique=True, max_size=3))
def test_files_of_different_addresses_differ_even_where_case_does_not_count(
    addresses: list[str],
) -> None:
    pages = [address for address in addresses if not address.startswith("/static/")]
    assert len({file_of(address).lower() for address in pages}) == len(pages)
    for address in pages:
        assert "/" not in file_of(address)
        assert len(file_of(address)) < 200


def test_links_lead_to_files_or_are_left_out() -> None:
    page = '<a class="x" href="/a?b=1&amp;c=2">A</a> <a href="/gone">B</a> <a href="#here">C</a>'
    known = {"/a?b=1&c=2": 'f"1.html'}
    assert links_of(page) == ["/a?b=1&c=2", "/gone"]
    assert relinked(page, known.get) == (
        '<a class="x" href="f&quot;1.html">A</a> <a>B</a> <a href="#here">C</a>'
    )


@given(st.text())
def test_text_is_never_taken_for_a_link(text: str) -> None:
    page = f"<p>{html.escape(text + chr(32) + 'href=' + chr(34) + '/a' + chr(34))}</p>"
    assert relinked(page, lambda _: None) == page
