"""Job ids."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from saeserve.jobs.ids import ALPHABET, new_job_id, new_owner

SECONDS = st.floats(0, 4e9)


@given(SECONDS, SECONDS)
def test_ids_sort_as_their_times(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    if int(earlier * 1000) < int(later * 1000):
        assert new_job_id(earlier) < new_job_id(later)


def test_ids_have_their_form_and_differ() -> None:
    ids = {new_job_id(1.0) for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(f"j-[{ALPHABET}]{{20}}", job) for job in ids)
    assert new_job_id() > new_job_id(1.0)
    assert new_owner() != new_owner()
