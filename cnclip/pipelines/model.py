"""An open model, and the limits of its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..archive import ArchiveInfo
from ..errors import OutOfMemoryError
from ..preprocessors.multi_modal import Pixels, Resize

if TYPE_CHECKING:
    import torch

# Images that go through the model together, by default and at most. On a CPU, larger batches than
# the default gain nothing (measured on two cores), and Ctrl-C waits for the batch to end. The
# memory of a whole batch is allocated before its images are counted.
_IMAGE_BATCH = {"cpu": 8, "cuda": 256}
_MAX_IMAGE_BATCH = {"cpu": 32, "cuda": 256}
# Tokens of texts that go through the model together: tokens_at_once of
# csrc/engine/torch/torch_engine.cpp.
_TEXT_TOKENS = {"cpu": 2048, "cuda": 16384}


@dataclass(eq=False)
class EmbeddingModel:
    """An open model.

    Attributes:
        info: The metadata of its archive.
        encoder: The C core's encoder.
        device: Where it runs: `'cpu'` or `'cuda:N'`.
        precision: The precision in which it computes, such as `'fp32'`.
        return_tensors: `'np'` for NumPy arrays, `'pt'` for torch tensors.
    """

    info: ArchiveInfo
    encoder: _core.Encoder
    device: str
    precision: str
    return_tensors: Literal["np", "pt"]

    @property
    def temperature(self) -> Any:
        """Similarities are divided by it before a softmax: 0-d float32, array or tensor."""
        return as_returned(np.array(self.info.temperature, np.float32), self.return_tensors)

    @property
    def takes_bytes(self) -> bool:
        """Whether images reach the model as bytes, which it normalizes: on a GPU."""
        return self.device != "cpu"

    @property
    def batches_under_way(self) -> int:
        """Batches that the model has at a time: 2 on a GPU, so that it never waits for the next."""
        return 1 if self.device == "cpu" else 2

    @property
    def image_batch(self) -> int:
        """Images that go through the model together by default."""
        return image_batch(self.device)

    @property
    def max_image_batch(self) -> int:
        """Images that go through the model together, at most."""
        return max_image_batch(self.device)

    @property
    def text_tokens(self) -> int:
        """Tokens of the texts that go through the model together, at most."""
        return _TEXT_TOKENS[self.device.partition(":")[0]]


def resize_on_gpu(encoder: _core.Encoder, device: str) -> Resize:
    """A function that resamples images on the model's GPU, as `_core.ImageProcessor.resize`.

    It raises OutOfMemoryError where the memory of the GPU or of this machine is full.
    """

    def resize(images: list[Pixels], out: NDArray[Any] | None = None) -> NDArray[np.uint8]:
        try:
            return encoder.resize(images, out)
        except MemoryError as failure:
            raise OutOfMemoryError(
                f"no memory on {device} or on this machine to resize an image: end other programs "
                "that use the memory, or open the pipeline with resize='cpu'"
            ) from failure

    return resize


def image_batch(device: str) -> int:
    """Images that go through a model together by default, on `'cpu'`, `'cuda'` or `'cuda:N'`."""
    return _IMAGE_BATCH[device.partition(":")[0]]


def max_image_batch(device: str) -> int:
    """Images that go through a model together, at most, on `'cpu'`, `'cuda'` or `'cuda:N'`."""
    return _MAX_IMAGE_BATCH[device.partition(":")[0]]


def as_returned(
    array: NDArray[Any] | None, return_tensors: Literal["np", "pt"]
) -> NDArray[Any] | torch.Tensor | None:
    """An array as the pipeline returns it: the array, or a torch tensor that shares its memory."""
    if array is None or return_tensors == "np":
        return array
    import torch

    return torch.from_numpy(array)
