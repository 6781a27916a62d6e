from collections.abc import Sequence
from os import PathLike
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

def check_precision(device: str, precision: str, /) -> None: ...
def cores_free() -> int: ...
def measure_peak(precision: str, seconds: float, /) -> float | None: ...
def unusable_rows(rows: NDArray[np.float32], max_deviation: float, /) -> list[int]: ...

@final
class Tokenizer:
    def __new__(cls, vocabulary: bytes) -> Tokenizer: ...
    def encode(
        self, texts: Sequence[str], context_length: int = 52, lower_case: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    @property
    def size(self) -> int: ...
    @property
    def largest_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...
    @property
    def cls_id(self) -> int: ...
    @property
    def sep_id(self) -> int: ...

@final
class ImageProcessor:
    def __new__(
        cls,
        resolution: int,
        mean: Sequence[float] = ...,
        std: Sequence[float] = ...,
    ) -> ImageProcessor: ...
    def process(
        self,
        images: Sequence[Image | NDArray[np.uint8]],
        /,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]: ...
    def resize(
        self,
        images: Sequence[Image | NDArray[np.uint8]],
        /,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]: ...
    @property
    def resolution(self) -> int: ...
    @property
    def isa(self) -> str: ...

@final
class Engine:
    def __new__(cls, path: str | PathLike[str]) -> Engine: ...
    def device_count(self, type: str, /) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...

@final
class Encoder:
    def __new__(
        cls,
        engine: Engine,
        path: str | PathLike[str],
        tokenizer: Tokenizer,
        embedding_width: int,
        context_length: int,
        device: str = "cpu",
        precision: str = "fp32",
        num_threads: int = 0,
        image_processor: ImageProcessor | None = None,
        spares_busy_cores: bool = False,
        is_prepared: bool = False,
        resizes: bool = False,
    ) -> Encoder: ...
    def encode_pixels(self, pixels: NDArray[np.float32 | np.uint8], /) -> NDArray[np.float32]: ...
    def resize(
        self,
        images: Sequence[Image | NDArray[np.uint8]],
        /,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]: ...
    def encode_texts(self, items: Sequence[str], batch_size: int = 0) -> NDArray[np.float32]: ...
    def encode_ids(
        self, items: NDArray[np.integer[Any]], batch_size: int = 0
    ) -> NDArray[np.float32]: ...
    def save_prepared(self, path: str | PathLike[str], /) -> None: ...
    @property
    def num_threads(self) -> int: ...
