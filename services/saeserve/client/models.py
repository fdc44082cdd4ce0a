"""The model half of the SDK: look, alias, delete."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from saeserve.client.errors import translated
from saeserve.client.model_values import Model, model_value
from saeserve.v1 import model_service_pb2, model_service_pb2_grpc


class Models:
    """Calls of ModelService. A reference is name, name@3, name@alias or the resource."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def get(self, reference: str) -> Model:
        """The version that a reference names.

        >>> client.models.get("my-sae@prod").metrics
        """
        request = model_service_pb2.GetModelRequest(model=reference)
        with translated(self._address):
            return model_value(self._stub.GetModel(request, timeout=self._timeout).model)

    def list(self, name: str = "") -> Iterator[Model]:
        """All versions, or those of one name.

        >>> [model.resource for model in client.models.list("my-sae")]
        """
        token = ""
        while True:
            request = model_service_pb2.ListModelsRequest(name=name, page_token=token)
            with translated(self._address):
                page = self._stub.ListModels(request, timeout=self._timeout)
            yield from (model_value(model) for model in page.models)
            token = page.next_page_token
            if not token:
                return

    def set_alias(self, name: str, alias: str, version: int) -> Model:
        """Point `name@alias` at a version.

        >>> client.models.set_alias("my-sae", "prod", 3)
        """
        request = model_service_pb2.SetAliasRequest(name=name, alias=alias, version=version)
        with translated(self._address):
            return model_value(self._stub.SetAlias(request, timeout=self._timeout).model)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias.

        >>> client.models.delete_alias("my-sae", "prod")
        """
        request = model_service_pb2.DeleteAliasRequest(name=name, alias=alias)
        with translated(self._address):
            self._stub.DeleteAlias(request, timeout=self._timeout)

    def delete(self, reference: str, *, force: bool = False) -> None:
        """Delete one version; refused while an alias or a live job uses it, unless forced.

        >>> client.models.delete("my-sae@1")
        """
        request = model_service_pb2.DeleteModelRequest(model=reference, force=force)
        with translated(self._address):
            self._stub.DeleteModel(request, timeout=self._timeout)
