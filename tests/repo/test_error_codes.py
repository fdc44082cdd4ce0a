"""ERRORS.md names every word that a caller may meet."""

from __future__ import annotations

import re

from tests.repo.error_codes import PAGE, table, uses


def test_the_page_has_the_words_of_the_code_and_where_they_are_told() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    wanted = {word: where for word, (where, _) in table(uses()).items()}
    assert dict(rows) == wanted, "run `make errors`"


def test_words_of_every_kind_are_found() -> None:
    found = table(uses())
    for word, where in {
        "DATASET_NOT_FOUND": "NOT_FOUND",
        "QUEUE_FULL": "RESOURCE_EXHAUSTED",
        "INDEX_UNAVAILABLE": "UNAVAILABLE",
        "DATA_MISMATCH": "job",
        "WORKER_LOST": "job",
        "OOM_GPU": "job",
        "OOM_HOST": "job",
        "INSUFFICIENT_MEMORY": "FAILED_PRECONDITION",
        "DEADLINE_PASSED": "DEADLINE_EXCEEDED",
        "MEMBER_DIVERGED": "warning",
        "DEAD_WINDOW_LOWERED": "warning",
        "CKPT_CORRUPT": "warning",
        "TOO_FEW_STEPS": "warning",
        "FVU_HIGH": "warning",
        "CALIBRATION_RAISED_FVU": "warning",
        "BAD_SETTING": "start of a service",
        "LOCAL_EXISTS": "SDK, command line",
    }.items():
        assert where in found[word][0]
