"""Foreign errors that are meant for the caller."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2
from redis.exceptions import ConnectionError as RedisConnectionError

from saeserve.errors import (
    DataError,
    DataMismatchError,
    FormatError,
    InvalidInput,
    Kind,
    NoSpaceError,
    SpecError,
    SpecErrors,
)
from saeserve.platform.status import CODES, rpc_status, service_error


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (SpecError("train.k", "too large"), Kind.INVALID_INPUT, "INVALID_SPEC"),
        (DataError("NaN", shard="00001", row=7), Kind.INVALID_INPUT, "BAD_DATA"),
        (DataMismatchError("d 5, not 4"), Kind.FAILED_PRECONDITION, "DATA_MISMATCH"),
        (FormatError("version 9"), Kind.FAILED_PRECONDITION, "BAD_FORMAT"),
        (NoSpaceError("full"), Kind.UNAVAILABLE, "DISK_FULL"),
        (RedisConnectionError("refused at 10.1.2.3"), Kind.UNAVAILABLE, "REDIS_UNAVAILABLE"),
    ],
)
def test_errors_of_other_rooms(error: Exception, kind: Kind, reason: str) -> None:
    mapped = service_error(error)
    assert mapped is not None
    assert (mapped.kind, mapped.code) == (kind, reason)
    assert "10.1.2.3" not in mapped.text()


def test_service_errors_stay_themselves() -> None:
    error = InvalidInput("no")
    assert service_error(error) is error


def test_unforeseen_errors_are_not_for_the_caller() -> None:
    assert service_error(KeyError("x")) is None


def test_every_kind_has_a_code() -> None:
    assert set(CODES) == set(Kind)


def test_each_field_of_several_is_a_violation_and_all_fit_into_trailing_metadata() -> None:
    errors = [
        SpecError(f"train.f{n}", "is wrong: " + "x" * 900, remedy="é" * 99) for n in range(40)
    ]
    mapped = service_error(SpecErrors(errors))
    assert mapped is not None
    status = rpc_status(mapped)
    assert status.message.startswith("the spec has 40 errors: train.f0: is wrong")
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [each.field for each in bad.field_violations] == [f"train.f{n}" for n in range(16)]
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) < 7_000
