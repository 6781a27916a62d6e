"""What a server serves: models, each with its batcher, and collections of their vectors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bulk import model_identity
from ..errors import InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from .batching import Batcher, BatchOptions
from .collections import Searchable
from .faults import Fault
from .options import ServerOptions


@dataclass(frozen=True)
class ServedModel:
    """An open model for many callers.

    Attributes:
        name: The name in requests.
        pipeline: The model.
        batcher: The way of every item through it.
        digest: The digest of its weights.
        created: When it was opened, in seconds since 1970.
    """

    name: str
    pipeline: MultiModalEmbeddingPipeline
    batcher: Batcher
    digest: str
    created: int = field(default_factory=lambda: int(time.time()))


class Served:
    """Models and collections by their names; they may still be opening."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.models: dict[str, ServedModel] = {}
        self.collections: dict[str, Searchable] = {}
        self.is_open = False
        self.is_draining = False
        self.failure: BaseException | None = None
        self._by_pipeline: dict[int, ServedModel] = {}

    def open(
        self,
        opening: Callable[[], tuple[Sequence[MultiModalEmbeddingPipeline], Sequence[Searchable]]],
    ) -> threading.Thread:
        """Open models and collections on a thread, so that the server responds meanwhile.

        Args:
            opening: Returns the models that are served by themselves, and the collections. What it
                raises is in `failure`.
        """

        def run() -> None:
            try:
                pipelines, searchables = opening()
                self.add(pipelines, searchables)
            except BaseException as error:
                self.failure = error

        thread = threading.Thread(target=run, name="cnclip-opening", daemon=True)
        thread.start()
        return thread

    def add(
        self,
        pipelines: Iterable[MultiModalEmbeddingPipeline],
        searchables: Iterable[Searchable],
    ) -> None:
        """Serve open models and collections, and make each model ready for its first request."""
        searchables = list(searchables)
        for pipeline in (*pipelines, *(one.pipeline for one in searchables)):
            self._add_model(pipeline)
        self.collections = {one.name: one for one in searchables}
        for model in self.models.values():
            model.batcher.forward({"text": "猫"})
        self.is_open = True

    def _add_model(self, pipeline: MultiModalEmbeddingPipeline) -> None:
        if id(pipeline) in self._by_pipeline:
            return
        identity = model_identity(pipeline)
        name = _short(identity["name"])
        if name in self.models:  # the same model in another precision, or another of this name
            name = f"{name}-{pipeline.model.precision}"
        if name in self.models:
            name = f"{_short(identity['name'])}-{identity['digest'][:8]}"
        if name in self.models:
            raise InvalidInputError("is given twice", item=name)
        limits = BatchOptions(
            max_bytes=self.options.max_bytes, run_timeout=self.options.batch_timeout
        )
        batcher = Batcher(pipeline, limits)
        served = ServedModel(name, pipeline, batcher, identity["digest"])
        self.models[name] = self._by_pipeline[id(pipeline)] = served

    def check_open(self) -> None:
        """Refuse requests while the server opens or ends.

        Raises:
            Fault: 503.
        """
        if self.is_draining:
            raise Fault(503, "the server is shutting down", "shutting_down", retry_after=5)
        if not self.is_open:
            raise Fault(503, "the server is opening its models", "opening", retry_after=1)

    def model(self, name: str | None) -> ServedModel:
        """The model of a request; the first where the request names none.

        Raises:
            Fault: 404, there is no such model; 503, the server opens or ends.
        """
        self.check_open()
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise Fault(404, f"no model {name}; served: {known}", "model_not_found", param="model")
        return self.models[name]

    def model_of(self, searchable: Searchable) -> ServedModel:
        """The model of a collection."""
        return self._by_pipeline[id(searchable.pipeline)]

    def collection(self, name: str | None) -> Searchable:
        """The collection of a request; the first where the request names none.

        Raises:
            Fault: 404, there is no such collection, or none; 503, the server opens or ends.
        """
        self.check_open()
        if name is None and self.collections:
            return next(iter(self.collections.values()))
        if name is None or name not in self.collections:
            known = ", ".join(self.collections) or "none"
            raise Fault(
                404,
                f"no collection {'' if name is None else name}; served: {known}",
                "collection_not_found",
                param="collection",
            )
        return self.collections[name]

    def not_ready(self) -> str | None:
        """Why a request would fail now, or None."""
        try:
            self.check_open()
        except Fault as fault:
            return fault.message
        for model in self.models.values():
            if not model.batcher.ready:
                return (
                    f"{model.name}: no batch was embedded within {self.options.batch_timeout:g} s"
                )
        return None

    def close(self) -> None:
        """End the batchers; requests that wait fail."""
        for model in self.models.values():
            model.batcher.close(drain=False)


def _short(name: str) -> str:
    return Path(name).name.removesuffix(".cnclip.pt") or name
