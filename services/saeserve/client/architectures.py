"""The architectures that a train job may choose from, as the API has them."""

from __future__ import annotations

from collections.abc import Mapping

from saeserve.v1 import spec_pb2

ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    each.name: tuple(field.name for field in each.message_type.fields)
    for each in spec_pb2.TrainSpec.DESCRIPTOR.oneofs_by_name["architecture"].fields
    if each.message_type is not None
}
"""The fields of each, by the name that it has in a spec."""
