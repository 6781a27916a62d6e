"""`NamedModel`: a model that each process opens when it first embeds."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..archive import ArchiveInfo
from ..bulk.folder import archive_identity
from ..errors import ModelMismatchError
from ..models import open_archive
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..preprocessors.text import normalize_text

# An open pipeline, or a model as `pipeline` opens it.
ModelInput: TypeAlias = MultiModalEmbeddingPipeline | str | os.PathLike[str]


class NamedModel:
    """An open pipeline, or the name of a model and the options to open it with.

    The model is opened when it is first used. Threads may use one object at the same time. Pickled,
    it is the name, the options and the model's digest; another process opens the model again, and
    fails if the name is that of another model there.

    Attributes:
        name: The model's name or absolute path; of an open pipeline, the path of its archive.
        device: As for `pipeline`.
        precision: As for `pipeline`.
        num_threads: As for `pipeline`.
    """

    def __init__(
        self,
        model: ModelInput,
        *,
        device: str = "gpu",
        precision: str = "fp32",
        num_threads: int | None = None,
    ) -> None:
        """Record the model, and open nothing.

        Args:
            model: An open pipeline, whose device and precision are taken; or a model as `pipeline`
                opens it.
            device: As for `pipeline`.
            precision: As for `pipeline`.
            num_threads: As for `pipeline`.
        """
        self._pipeline: MultiModalEmbeddingPipeline | None = None
        self._digest: str | None = None
        self._lock = threading.Lock()
        self.num_threads = num_threads
        if isinstance(model, MultiModalEmbeddingPipeline):
            self._pipeline = model
            opened = model.model
            self.name = str(opened.info.path)
            # In another process the GPU may have another number.
            self.device, self.precision = opened.device.replace("cuda", "gpu"), opened.precision
        else:
            name = os.fspath(model)
            path = os.path.expanduser(name)
            self.name = os.path.abspath(path) if os.path.exists(path) else name
            self.device, self.precision = device, precision

    def __repr__(self) -> str:
        return f"NamedModel({self.name!r}, device={self.device!r}, precision={self.precision!r})"

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_pipeline", "_lock")
        digest = archive_identity(self._info())["digest"]
        state = {name: value for name, value in vars(self).items() if name not in hidden}
        return {**state, "_digest": digest}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._pipeline, self._lock = None, threading.Lock()

    def __deepcopy__(self, memo: Any) -> NamedModel:
        return self

    def _info(self) -> ArchiveInfo:
        """The archive's description; checked to be that of the model which was pickled."""
        if self._pipeline is not None:
            return self._pipeline.model.info
        info = open_archive(self.name)
        found = archive_identity(info)["digest"]
        if self._digest not in (None, found):
            reason = (
                f"is another model here ({found[:12]}) than where this object was made "
                f"({str(self._digest)[:12]})"
            )
            raise ModelMismatchError(reason, item=self.name)
        return info

    @property
    def pipeline(self) -> MultiModalEmbeddingPipeline:
        """The open pipeline.

        Raises:
            CnclipError: as `pipeline`.
            ModelMismatchError: it is another model than the one that was pickled.
        """
        with self._lock:
            if self._pipeline is None:
                self._info()
                self._pipeline = pipeline(
                    model=self.name,
                    device=self.device,
                    precision=self.precision,
                    num_threads=self.num_threads,
                )
            return self._pipeline

    @property
    def dim(self) -> int:
        """Columns of the embeddings; found without opening the model."""
        return self._info().embed_dim

    def embed_texts(
        self, texts: Sequence[str], batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Embed texts: float32 [n, d], rows of unit length. Raises as `pipeline.forward`."""
        opened = self.pipeline
        values: Any = texts if isinstance(texts, list) else list(texts)
        if opened.model.info.normalizes_texts:
            values = [normalize_text(one) if isinstance(one, str) else one for one in values]
        return np.asarray(opened.forward({"text": values}, batch_size)["text_embedding"])

    def embed_images(
        self, images: Sequence[Any], batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Embed images: float32 [n, d], rows of unit length. Raises as `pipeline.forward`.

        Args:
            images: As for `pipeline.forward`; also open binary files, and dicts with `bytes` or a
                `path`, as Hugging Face's data sets have them.
            batch_size: As for `pipeline.forward`.
        """
        values = [_image_of(image) for image in images]
        return np.asarray(self.pipeline.forward({"img": values}, batch_size)["img_embedding"])


def _image_of(value: Any) -> Any:
    """An image as `pipeline.forward` takes it."""
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        return value.get("bytes") or value.get("path")
    if isinstance(value, io.IOBase):
        return value.read() if not isinstance(value, io.BytesIO) else value.getvalue()
    return value
