"""The content of `modelscope.models.multi_modal.clip.model`: Chinese-CLIP as a torch module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import pipelines
from ..checkpoints.config_file import read_json
from ..checkpoints.files import TEXT_CONFIG, VISION_CONFIG
from ..modeling import cn_clip
from ..modeling.config import ClipConfig
from ..models import find_model, read_checkpoint
from ..pipelines import MultiModalEmbeddingPipeline
from ._choice import own_name
from .constant import ModeKeys
from .models import TorchModel
from .outputs import OutputKeys
from .tokenizer import FullTokenizer
from .utils import own_device

# Dimensions of images and ids that a loader has put into one batch more.
_BATCHED_IMAGES, _BATCHED_IDS = 5, 3


class _Pooler(nn.Module):
    """BERT's pooler, which checkpoints have and Chinese-CLIP does not use."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.requires_grad_(False)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)


class CLIP(cn_clip.CLIP):
    """The towers. `encode_image` and `encode_text` return rows as they leave the projection.

    Attributes:
        tokenizer: The tokenizer of the texts.
    """

    def __init__(self, config: ClipConfig, tokenizer: FullTokenizer) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer

    def add_pooler(self) -> None:
        """Add BERT's pooler, so that `state_dict` has the names of ModelScope's checkpoints."""
        self.bert.add_module("pooler", _Pooler(self.config.text.width))


class CLIPForMultiModalEmbedding(TorchModel):
    """Chinese-CLIP under ModelScope's name.

    `forward` runs the core. The towers in torch, `clip_model`, are made when a program
    first asks for them or for weights; once their weights differ from the model's, or they train,
    `forward` runs the towers.

    Attributes:
        model_dir: The model's directory or file.
        device: Where it runs: `'cpu'` or `'cuda:N'`.
        tokenizer: The tokenizer of texts.
    """

    def __init__(
        self,
        model_dir: str | PathLike[str],
        *_: Any,
        revision: str | None = None,
        device: Any = None,
        precision: str = "fp32",
        num_threads: int | None = None,
        decode: str = "exact",
        resize: str = "cpu",
        local_files_only: bool = False,
        **__: Any,
    ) -> None:
        """Open a model.

        Args:
            model_dir: A directory, a file, or a name on ModelScope's hub.
            revision: Branch, tag or commit on the hub.
            device: As for ModelScope's `pipeline`: a GPU that is not there means the CPU.
            precision: As for `cnclip.pipelines.pipeline`.
            num_threads: As for `cnclip.pipelines.pipeline`.
            decode: As for `cnclip.pipelines.pipeline`.
            resize: As for `cnclip.pipelines.pipeline`.
            local_files_only: As for `cnclip.pipelines.pipeline`.

        Raises:
            CnclipError: as `cnclip.pipelines.pipeline`.
        """
        name = own_name(str(model_dir))
        path = find_model(name, revision, local_files_only=local_files_only)
        super().__init__(str(path))
        self.name = str(model_dir)
        self.device = own_device(device)
        self._options: dict[str, Any] = {
            "precision": precision,
            "num_threads": num_threads,
            "decode": decode,
            "resize": resize,
        }
        self._pipeline: MultiModalEmbeddingPipeline | None = None
        self._mark: Any = None
        self._eval = True  # of the towers, when they are made
        self.tokenizer = FullTokenizer.from_vocabulary(self.core.model.info.vocabulary)

    @property
    def core(self) -> MultiModalEmbeddingPipeline:
        """The pipeline of cnclip, on the model's device."""
        if self._pipeline is None:
            self._pipeline = pipelines.pipeline(
                model=self.model_dir, device=self.device, **self._options
            )
        return self._pipeline

    @property
    def model_info(self) -> dict[str, Any]:
        """The sizes in the model's configuration files."""
        found: dict[str, Any] = {}
        for name in (VISION_CONFIG, TEXT_CONFIG):
            path = Path(self.model_dir, name)
            found |= read_json(path) if path.is_file() else {}
        return found

    @property
    def temperature(self) -> Tensor:
        """The divisor of similarities before a softmax: float32, without dimensions."""
        if self.is_loaded and not self.core_is_current:
            divisor: Tensor = 1.0 / self.clip_model.logit_scale.exp()
            return divisor
        return torch.tensor(self.core.model.info.temperature, device=self.device)

    # --- The towers, which are made on demand ----------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the towers have been made."""
        return "clip_model" in self.__dict__["_modules"]

    def __getattr__(self, name: str) -> Any:
        if name == "clip_model" and "_pipeline" in self.__dict__ and not self.is_loaded:
            self._load()
        return super().__getattr__(name)

    def _load(self) -> None:
        checkpoint = read_checkpoint(self.core.model.info.path)
        towers = CLIP(checkpoint.config, self.tokenizer)
        towers.load_weights(checkpoint.weights)
        towers.add_pooler()
        towers.train(not self._eval)
        self._modules["clip_model"] = towers.to(self.device)
        self._mark = self._weights_mark()

    def _weights_mark(self) -> Any:
        """A value that changes with the weights: their versions, places and first elements."""
        tensors = [*self.clip_model.parameters(), *self.clip_model.buffers()]
        firsts = [tensor.detach().reshape(-1)[:1].float() for tensor in tensors]
        places = [(tensor._version, tensor.data_ptr()) for tensor in tensors]
        return places, torch.cat(firsts).tolist()

    @property
    def core_is_current(self) -> bool:
        """Whether the core computes what the towers would."""
        if not self.is_loaded:
            return True
        return not self.clip_model.training and bool(self._mark == self._weights_mark())

    def named_modules(self, *arguments: Any, **keywords: Any) -> Iterator[tuple[str, nn.Module]]:
        """As of nn.Module: makes the towers."""
        _ = self.clip_model
        yield from super().named_modules(*arguments, **keywords)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As of nn.Module: makes the towers."""
        _ = self.clip_model
        return super().named_children()

    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """As of nn.Module, with the names of ModelScope: `clip_model.visual.conv1.weight`."""
        _ = self.clip_model
        return super().state_dict(*arguments, **keywords)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *arguments: Any, **keywords: Any
    ) -> Any:
        """As of nn.Module: `forward` runs the towers from then on."""
        _ = self.clip_model
        return super().load_state_dict(state_dict, *arguments, **keywords)

    def train(self, mode: bool = True) -> CLIPForMultiModalEmbedding:
        """As of nn.Module, without making the towers."""
        self._eval = not mode
        self.training = mode
        if self.is_loaded:
            self.clip_model.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `to`, `cuda`, `half` and their like call; another device alone makes no towers."""
        probe = fn(torch.zeros(0, device=self.device))
        if self.is_loaded or probe.dtype != torch.float32:
            was_current = self.core_is_current and probe.dtype == torch.float32
            _ = self.clip_model
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            self._mark = self._weights_mark() if was_current else None
        if probe.device.type in ("cpu", "cuda") and str(probe.device) != self.device:
            self.device, self._pipeline = own_device(probe.device), None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pipeline": None}

    # --- Embedding -------------------------------------------------------------------------------

    def forward(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Embed the tensors of `CLIPPreprocessor`.

        Args:
            input: 'img': float32 [n, 3, r, r]; 'text': int64 [n, l]; 'mode': `ModeKeys.TRAIN` for
                rows with gradients. Values that are no tensors are left out. Pixels that require a
                gradient get it in any mode, unless torch's gradients are off.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None},
            rows of unit length on the model's device; in training also 'logit_scale'.
        """
        training = input.get("mode", ModeKeys.INFERENCE) == ModeKeys.TRAIN
        output: dict[str, Any] = {OutputKeys.IMG_EMBEDDING: None, OutputKeys.TEXT_EMBEDDING: None}
        pixels, ids = input.get("img"), input.get("text")
        if isinstance(pixels, Tensor):
            if pixels.dim() == _BATCHED_IMAGES and pixels.shape[1] == 1:
                pixels = pixels.squeeze(1)
            output[OutputKeys.IMG_EMBEDDING] = self._embed_pixels(pixels, training=training)
        if isinstance(ids, Tensor):
            if ids.dim() == _BATCHED_IDS and ids.shape[1] == 1:
                ids = ids.squeeze(1)
            output[OutputKeys.TEXT_EMBEDDING] = self._embed_ids(ids, training=training)
        if training:
            output["logit_scale"] = self.clip_model.logit_scale.exp().mean()
        return output

    def _embed_pixels(self, pixels: Tensor, *, training: bool) -> Tensor:
        gradients = training or (pixels.requires_grad and torch.is_grad_enabled())
        if gradients or not self.core_is_current:
            with torch.set_grad_enabled(gradients):
                return cn_clip.unit_rows(self.clip_model.encode_image(pixels.to(self.device)))
        size = self.core.model.max_image_batch
        array = pixels.detach().cpu().float().numpy()
        encode = self.core.model.encoder.encode_pixels
        parts = [encode(array[start : start + size]) for start in range(0, len(array), size)]
        rows = np.concatenate([np.empty((0, self.core.model.info.embed_dim), np.float32), *parts])
        return torch.from_numpy(rows).to(self.device)

    def _embed_ids(self, ids: Tensor, *, training: bool) -> Tensor:
        is_long = ids.size(-1) > self.core.model.info.context_length
        if training or is_long or not self.core_is_current:
            with torch.set_grad_enabled(training):
                return cn_clip.unit_rows(self.clip_model.encode_text(ids.to(self.device)))
        rows = self.core.model.encoder.encode_ids(ids.cpu().numpy())
        return torch.from_numpy(rows).to(self.device)


__all__ = ["CLIP", "CLIPForMultiModalEmbedding", "FullTokenizer"]
