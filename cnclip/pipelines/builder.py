"""`pipeline(...)`: from a task and a model's name to an open pipeline."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .. import _core
from .._checks import check_integer
from .._cores import is_number_fixed, model_threads
from ..engine import cuda_count, open_engine
from ..errors import DeviceError, InputTypeError, InvalidInputError
from ..models import open_archive
from ..prepared import open_prepared
from ..preprocessors.decoding import DECODES, Decode
from ..preprocessors.multi_modal import CLIPPreprocessor
from ..utils.constant import Tasks
from .embedding import MultiModalEmbeddingPipeline
from .model import EmbeddingModel, resize_on_gpu

logger = logging.getLogger("cnclip")

_TASKS = (Tasks.multi_modal_embedding, Tasks.image_text_retrieval)
# Keywords of ModelScope's `pipeline` that do not change the result, and the values for which this
# holds; an empty tuple: all.
_IGNORED: dict[str, tuple[Any, ...]] = {
    "auto_collate": (),
    "config_file": (None,),
    "framework": (None, "pytorch"),
    "ignore_file_pattern": (),
    "llm_first": (False, None),
    "pipeline_name": (None, "multi-modal-embedding"),
    "preprocessor": (None,),
    "third_party": (),
    "trust_remote_code": (),
}
_PRECISIONS = ("fp32", "bf16", "int8", "fp16")
RESIZES = ("cpu", "gpu")
# OpenMP starts as many threads as requested, and ends the process if the system refuses one.
MAX_THREADS = 1024
_GPU = re.compile(r"(cuda|gpu)(?::(\d{1,3}))?")


def pipeline(
    task: str = Tasks.multi_modal_embedding,
    model: str | Path | None = None,
    *,
    device: str = "gpu",
    precision: str = "fp32",
    num_threads: int | None = None,
    return_tensors: Literal["np", "pt"] = "np",
    decode: Decode = "exact",
    resize: Literal["cpu", "gpu"] = "cpu",
    model_revision: str | None = None,
    local_files_only: bool = False,
    **others: Any,
) -> MultiModalEmbeddingPipeline:
    """Open a model for embedding, as `modelscope.pipelines.pipeline` does.

    Args:
        task: `Tasks.multi_modal_embedding` or `Tasks.image_text_retrieval`; both embed.
        model: An archive (`NAME.cnclip.pt`); a checkpoint: a directory of ModelScope's or Hugging
            Face's, a `.pt` file of cn_clip's; a name on a hub, `'damo/...'`, `'OFA-Sys/...'`, or
            of others `'ms:OWNER/MODEL'`, `'hf:OWNER/MODEL'`; or `'emoji-cn'`, the small model that
            ships. A checkpoint is converted the first time, which takes seconds and imports torch;
            the archive is kept under `$CNCLIP_CACHE`.
            An archive holds code that runs when it is opened: open only those you trust.
        device: `'gpu'` takes a GPU if there is one, else the CPU; `'gpu:N'` takes that GPU if it
            exists, else the CPU with a warning in the log; `'cuda:N'` takes that GPU or fails;
            `'cpu'`.
        precision: `'fp32'`, ModelScope's numbers. Faster and less exact, see
            docs/en/about/benchmarks.md: `'bf16'`, on processors with AVX-512 BF16 or ARM64's
            BF16, and on GPUs; `'int8'`, weights and activations of linear layers, on processors
            with AVX2 or ARM64's DotProd; `'fp16'`, on GPUs.
        num_threads: CPU threads for each run of the model, and as many for preparing images; by
            default `$OMP_NUM_THREADS`, or one per core that the process may use by its affinity
            and CPU quota, and for the model fewer while other processes use these cores. Ask for
            no more than the system allows a process: OpenMP ends the process if one is refused.
        return_tensors: `'np'` for NumPy arrays, `'pt'` for torch tensors that share their memory.
        decode: How JPEG files are decoded. `'exact'`, ModelScope's pixels; or `'fast'`: the decoder
            scales by 1/2, 1/4 or 1/8, as long as twice the model's resolution remains in both
            sides, see docs/en/howto/photos.md. Other formats are decoded exactly.
        resize: Where `forward` resamples images for a model on a GPU: `'cpu'`, or `'gpu'`, that
            GPU. The pixels are the same to the bit. See docs/en/about/benchmarks.md.
        model_revision: Branch, tag or commit of a model on a hub. Models on disk have none.
        local_files_only: Use the files of a hub's model that were fetched before, without the
            network.
        others: Keywords of ModelScope's `pipeline` that cannot change the result, which are
            ignored: `auto_collate`, `config_file`, `framework`, `ignore_file_pattern`,
            `llm_first`, `pipeline_name`, `preprocessor`, `third_party`, `trust_remote_code`; with
            values that ask for this pipeline, such as `framework='pytorch'`.

    Raises:
        ModelNotFoundError: there is no such model.
        HubError: it cannot be fetched from its hub. MissingExtraError: the hub's client is missing.
        CheckpointError, ArchiveError: the model is damaged or of another kind.
        EngineError: torch is missing, or no engine fits it.
        DeviceError: the GPU asked for does not exist, or the device does not compute in the
            precision, or `resize` is `'gpu'` and the model is on the CPU.
        InvalidInputError, InputTypeError: another argument or keyword is not one of those above.
    """
    _check_others(others)
    if task not in _TASKS:
        raise InvalidInputError(f"expected one of {', '.join(_TASKS)}, got {task!r}", item="task")
    if model is None:
        reason = "expected an archive, a model directory or 'emoji-cn', got None"
        raise InvalidInputError(reason, item="model")
    if precision not in _PRECISIONS:
        reason = f"expected one of {', '.join(_PRECISIONS)}, got {precision!r}"
        raise InvalidInputError(reason, item="precision")
    if return_tensors not in ("np", "pt"):
        reason = f"expected 'np' or 'pt', got {return_tensors!r}"
        raise InvalidInputError(reason, item="return_tensors")
    if decode not in DECODES:
        raise InvalidInputError(f"expected 'exact' or 'fast', got {decode!r}", item="decode")
    if resize not in RESIZES:
        raise InvalidInputError(f"expected 'cpu' or 'gpu', got {resize!r}", item="resize")
    if num_threads is not None:
        check_integer(num_threads, "num_threads", maximum=MAX_THREADS)
    where = choose_device(device)
    _core.check_precision(where, precision)  # before the work of converting
    if resize == "gpu" and where == "cpu":
        raise DeviceError("resize='gpu': the model is on the CPU; leave it out, or choose a GPU")
    engine = open_engine()  # before converting, which needs torch as well
    info = open_archive(model, model_revision, local_files_only=local_files_only)
    preprocessor = CLIPPreprocessor(info, num_threads, decode=decode)

    def open_file(path: Path, is_prepared: bool) -> _core.Encoder:
        return _core.Encoder(
            engine,
            path,
            preprocessor.tokenizer,
            info.embed_dim,
            info.context_length,
            device=where,
            precision=precision,
            num_threads=int(num_threads or model_threads()),
            image_processor=preprocessor.image_processor,
            spares_busy_cores=num_threads is None and not is_number_fixed(),
            is_prepared=is_prepared,
            resizes=resize == "gpu",
        )

    if where == "cpu":
        isa = preprocessor.image_processor.isa
        encoder = open_prepared(info, engine, isa, precision, open_file)
    else:
        encoder = open_file(info.path, False)
    if resize == "gpu":
        preprocessor.resize_by(resize_on_gpu(encoder, where))
    opened = EmbeddingModel(info, encoder, where, precision, return_tensors)
    return MultiModalEmbeddingPipeline(opened, preprocessor)


def _check_others(others: Mapping[str, Any]) -> None:
    """Refuse keywords that are not ModelScope's, and values that would change the result.

    Raises:
        InputTypeError: an unknown keyword; the message has those that are taken.
        InvalidInputError: a value asks for another pipeline.
    """
    for name, value in others.items():
        if name not in _IGNORED:
            own = [one for one in inspect.signature(pipeline).parameters if one != "others"]
            close = difflib.get_close_matches(name, own, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputTypeError(
                f"pipeline has no keyword {name}.{hint} It takes {', '.join(own)}; it ignores "
                f"ModelScope's {', '.join(sorted(_IGNORED))}"
            )
        values = _IGNORED[name]
        if values and value not in values:
            wanted = " or ".join(map(repr, values))
            raise InvalidInputError(f"expected {wanted}, got {value!r:.100}", item=name)


def choose_device(device: str) -> str:
    """The device that a `device` argument means here: `'cpu'` or `'cuda:N'`.

    Raises:
        DeviceError: `'cuda:N'`, and there is no such GPU.
        InvalidInputError: not the name of a device.
    """
    if device == "cpu":
        return "cpu"
    match = _GPU.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise InvalidInputError(f"expected 'cpu', 'gpu' or 'cuda:N', got {device!r}", item="device")
    available = cuda_count()
    kind, number = match.groups()
    if number is None and kind == "gpu":
        # Launchers start one process per GPU; ModelScope reads the same variable.
        rank = os.environ.get("LOCAL_RANK", "0")
        number = rank if rank.isdecimal() else "0"
    index = int(number or 0)
    if index < available:
        return f"cuda:{index}"
    found = f"torch finds {available} GPUs here"
    if kind == "cuda":
        raise DeviceError(f"no device {device!r}: {found}")
    if match[2] is not None or available:  # a GPU was asked for by its number, or by LOCAL_RANK
        logger.warning("device %r: %s, using the CPU", device, found)
    return "cpu"
