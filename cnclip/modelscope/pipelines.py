"""The content of `modelscope.pipelines`: `pipeline`, with torch tensors as results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidInputError
from ._choice import DEFAULT_MODEL, foreign_type
from ._installed import installed_object
from .clip import CLIPForMultiModalEmbedding
from .config import Config
from .constant import Frameworks, Tasks
from .models import Model
from .preprocessors import CLIPPreprocessor, Preprocessor
from .utils import read_config

logger = logging.getLogger("cnclip")

TASKS = (Tasks.multi_modal_embedding, Tasks.image_text_retrieval)
# Keywords of cnclip's own pipeline, which programs may add.
_OWN = ("precision", "num_threads", "decode", "resize", "local_files_only")


def pipeline(
    task: str | None = None,
    model: Any = None,
    preprocessor: Any = None,
    config_file: Any = None,
    pipeline_name: str | None = None,
    framework: str | None = None,
    device: Any = None,
    model_revision: str | None = None,
    **others: Any,
) -> Any:
    """Open a pipeline: of Chinese-CLIP on cnclip, of any other model in the installed ModelScope.

    Args:
        task: `Tasks.multi_modal_embedding` or `Tasks.image_text_retrieval`; both embed.
        model: A directory, a name on ModelScope's hub, or an open model; by default the task's.
        preprocessor: In the place of the model's.
        config_file: For ModelScope.
        pipeline_name: For ModelScope.
        framework: For ModelScope.
        device: `'gpu'`, `'cuda'`, `'cuda:N'`, `'cpu'` or a torch.device. A GPU that is not there
            means the CPU.
        model_revision: Branch, tag or commit on the hub.
        others: `precision`, `num_threads`, `decode`, `resize` and `local_files_only` as for
            `cnclip.pipelines.pipeline`; others are for ModelScope.

    Raises:
        CnclipError: as `cnclip.pipelines.pipeline`.
        ModelScopeError: it is a model for ModelScope, which is not installed.
    """
    if isinstance(model, list | tuple) and len(model) == 1:
        model = model[0]
    if model is None and task in TASKS:
        model = DEFAULT_MODEL
    local = bool(others.get("local_files_only"))
    wanted, what = _foreign(task, model, model_revision, local_files_only=local)
    if what:
        theirs = installed_object("modelscope.pipelines.builder", "pipeline", wanted, what)
        given = {
            "preprocessor": preprocessor,
            "config_file": config_file,
            "pipeline_name": pipeline_name,
            "framework": framework,
            "device": device,
            "model_revision": model_revision,
        } | others
        return theirs(
            task, model, **{name: value for name, value in given.items() if value is not None}
        )
    if task is None and pipeline_name is None:
        raise InvalidInputError(f"expected one of {', '.join(TASKS)}, got None", item="task")
    if task is not None and task not in TASKS:
        reason = f"Chinese-CLIP is for {' and '.join(TASKS)}, got {task!r}"
        raise InvalidInputError(reason, item="task")
    own = {name: others[name] for name in _OWN if name in others}
    return MultiModalEmbeddingPipeline(
        model, preprocessor, device=device, model_revision=model_revision, **own
    )


def _foreign(
    task: str | None, model: Any, revision: str | None, *, local_files_only: bool
) -> tuple[str, str]:
    """A pipeline that is ModelScope's: what it is of, and what that is; else empty text."""
    if isinstance(model, str | PathLike):
        name = str(model)
        other = foreign_type(name, revision, local_files_only=local_files_only)
        return name, "" if other is None else f"a model of type {other!r}"
    if isinstance(model, CLIPForMultiModalEmbedding):
        return model.name, ""
    if model is None:
        return f"task {task!r}", "a task of other models than Chinese-CLIP"
    return f"model {type(model).__name__}", "not a model that cnclip has opened"


class Pipeline:
    """The base of pipelines.

    Attributes:
        model: The open model.
        preprocessor: Images and texts to its tensors.
        device: Where it runs, a torch.device.
    """

    framework = Frameworks.torch
    model: Any
    preprocessor: Any
    device: torch.device

    def __init__(self, model: Any = None, preprocessor: Any = None, **_: Any) -> None:
        self.model, self.preprocessor = model, preprocessor
        self.models = [] if model is None else [model]
        self.has_multiple_models = False

    def preprocess(self, inputs: Any, **keywords: Any) -> dict[str, Any]:
        """The model's tensors of an input."""
        found: dict[str, Any] = self.preprocessor(inputs, **keywords)
        return found

    def forward(self, input: Any, **keywords: Any) -> dict[str, Any]:
        """The model's result of its tensors."""
        found: dict[str, Any] = self.model(input, **keywords)
        return found

    def postprocess(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The result of `forward`, unchanged."""
        return inputs

    def __call__(self, input: Any, *arguments: Any, **keywords: Any) -> Any:
        """Run one input, each of a list, or lazily each of another iterable."""
        if isinstance(input, list):
            return [self._run(one, *arguments, **keywords) for one in input]
        if isinstance(input, Iterable) and not isinstance(input, Mapping | str | bytes):
            return self._run_lazily(input, *arguments, **keywords)
        return self._run(input, *arguments, **keywords)

    def _run_lazily(self, inputs: Iterable[Any], *_: Any, **keywords: Any) -> Iterator[Any]:
        for one in inputs:
            yield self._run(one, **keywords)

    def _run(self, input: Any, *_: Any, **keywords: Any) -> dict[str, Any]:
        with torch.no_grad():
            return self.postprocess(self.forward(self.preprocess(input)), **keywords)


class MultiModalEmbeddingPipeline(Pipeline):
    """Embeds images and Chinese texts; results are torch tensors on the pipeline's device."""

    def __init__(
        self,
        model: Any,
        preprocessor: Any = None,
        *,
        device: Any = None,
        model_revision: str | None = None,
        **others: Any,
    ) -> None:
        if not isinstance(model, CLIPForMultiModalEmbedding):
            own = {name: others[name] for name in _OWN if name in others}
            model = CLIPForMultiModalEmbedding(
                str(model), revision=model_revision, device=device, **own
            )
        elif device is not None:
            model.to(torch.device(device if device != "gpu" else model.device))
        model.eval()
        if preprocessor is None:
            preprocessor = CLIPPreprocessor(model.core.model.info)
        super().__init__(model, preprocessor)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it runs."""
        return torch.device(self.model.device)

    @property
    def device_name(self) -> str:
        """The device's name."""
        return str(self.model.device)

    @property
    def cfg(self) -> Config | None:
        """The settings in the model's configuration.json."""
        return read_config(self.model.model_dir) if Path(self.model.model_dir).exists() else None

    def forward(self, input: Mapping[str, Any], **keywords: Any) -> dict[str, Any]:
        """Embed images, texts, or both.

        Args:
            input: As for cnclip's pipeline; keys other than 'img' and 'text' are ignored. The
                tensors of `preprocess` are taken as well.
            keywords: `batch_size` as for cnclip's pipeline; others are ignored.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None},
            rows of unit length on the pipeline's device.
        """
        if isinstance(input, Mapping) and isinstance(self.preprocessor, CLIPPreprocessor):
            given = self.preprocessor.chosen(input)
            if any(isinstance(value, torch.Tensor) for value in given.values()):
                return self._embedded(given)
            if self.model.core_is_current and self.preprocessor.is_plain:
                answer = self.model.core.forward(given, keywords.get("batch_size"))
                return {key: self._tensor(value) for key, value in answer.items()}
        return self._embedded(self.preprocess(input))

    def _embedded(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.model(tensors)
        return found

    def _tensor(self, array: Any) -> Any:
        return None if array is None else torch.from_numpy(array).to(self.model.device)

    def _run(self, input: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        batch_size = keywords.pop("batch_size", None)
        return self.postprocess(self.forward(input, batch_size=batch_size), **keywords)


__all__ = ["Model", "MultiModalEmbeddingPipeline", "Pipeline", "Preprocessor", "pipeline"]
