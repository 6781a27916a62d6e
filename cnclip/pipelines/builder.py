"""`pipeline(...)`: from a task and a model's name to an open pipeline."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal

from .. import _core, _libtorch
from ..convert import open_archive
from ..errors import InvalidInputError
from ..preprocessors.multi_modal import CLIPPreprocessor
from ..utils.constant import Tasks
from .embedding import EmbeddingModel, MultiModalEmbeddingPipeline

logger = logging.getLogger("cnclip")

_TASKS = (Tasks.multi_modal_embedding, Tasks.image_text_retrieval)
_PRECISIONS = ("fp32",)
_CUDA = re.compile(r"(?:cuda|gpu)(?::(\d{1,3}))?")


def pipeline(
    task: str = Tasks.multi_modal_embedding,
    model: str | Path | None = None,
    *,
    device: str = "gpu",
    precision: str = "fp32",
    num_threads: int | None = None,
    return_tensors: Literal["np", "pt"] = "np",
) -> MultiModalEmbeddingPipeline:
    """Open a model for embedding, as `modelscope.pipelines.pipeline` does.

    Args:
        task: `Tasks.multi_modal_embedding` or `Tasks.image_text_retrieval`; both embed.
        model: An archive (`NAME.cnclip.pt`), a ModelScope model directory, or `'emoji-cn'`, the
            small model that ships. A directory is converted the first time, which takes seconds
            and imports torch; the archive is kept under `$CNCLIP_CACHE`.
            An archive holds code that runs when it is opened: open only those you trust.
        device: `'gpu'` takes a GPU if there is one, else the CPU, and says so in the log;
            `'cuda:N'` takes that GPU or fails; `'cpu'`.
        precision: `'fp32'`, ModelScope's numbers.
        num_threads: Of the CPU, for each call; by default libtorch's choice, one a core.
        return_tensors: `'np'` for NumPy arrays, `'pt'` for torch tensors that share their memory.

    Raises:
        ModelNotFoundError: there is no such model.
        CheckpointError, ArchiveError: the model is damaged or of another kind.
        DeviceError: the GPU asked for does not exist.
        InvalidInputError: another argument is not one of those above.
    """
    if task not in _TASKS:
        raise InvalidInputError(f"task: expected one of {', '.join(_TASKS)}, got {task!r}")
    if model is None:
        raise InvalidInputError(
            "model: expected an archive, a model directory or 'emoji-cn', got None"
        )
    if precision not in _PRECISIONS:
        raise InvalidInputError(
            f"precision: this version computes in {', '.join(_PRECISIONS)} only, got {precision!r}"
        )
    if return_tensors not in ("np", "pt"):
        raise InvalidInputError(f"return_tensors: expected 'np' or 'pt', got {return_tensors!r}")
    if num_threads is not None and (isinstance(num_threads, bool) or num_threads < 1):
        raise InvalidInputError(f"num_threads: expected 1 or more, or None, got {num_threads!r}")
    where = choose_device(device)
    info = open_archive(model)
    preprocessor = CLIPPreprocessor(info)
    encoder = _core.Encoder(
        info.path,
        preprocessor.tokenizer,
        preprocessor.image_processor,
        info.embed_dim,
        info.context_length,
        device=where,
        precision=precision,
        num_threads=num_threads or 0,
    )
    return MultiModalEmbeddingPipeline(
        EmbeddingModel(info, encoder, where, return_tensors), preprocessor, return_tensors
    )


def choose_device(device: str) -> str:
    """The device that a `device` argument means here: `'cpu'` or `'cuda:N'`."""
    if device == "cpu":
        return "cpu"
    match = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise InvalidInputError(f"device: expected 'cpu', 'gpu' or 'cuda:N', got {device!r}")
    available = _core.cuda_count() if _libtorch.load_cuda() else 0
    if match.group(1) is not None or device == "cuda":
        return f"cuda:{int(match.group(1) or 0)}"
    if available == 0:
        logger.warning("device 'gpu': no GPU that torch can use here, the CPU is taken")
        return "cpu"
    # One process a GPU is how launchers start them; ModelScope reads the same variable.
    rank = os.environ.get("LOCAL_RANK", "0")
    return f"cuda:{int(rank) if rank.isdecimal() else 0}"
