"""Models that tests open again and again, opened once.

libtorch takes a tenth of a second to read the code of a small model. Each command opens its model,
so that is a third of the time of tests that run commands.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cnclip import _core

# What a test may set to open a model in another way.
VARIABLES = ("CNCLIP_FORCE_ISA", "CNCLIP_PREPARED", "OMP_NUM_THREADS")
MAX_KEPT = 8


class SharedEncoders:
    """In place of `_core` in `cnclip.pipelines.builder`: one encoder for a file and its options."""

    def __init__(self) -> None:
        self._encoders: dict[Any, _core.Encoder] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(_core, name)

    def Encoder(
        self,
        engine: _core.Engine,
        path: Path,
        tokenizer: _core.Tokenizer,
        *sizes: int,
        image_processor: _core.ImageProcessor,
        **options: Any,
    ) -> _core.Encoder:
        # The tokenizer and the image processor are made of what the file says.
        file = path.stat()
        state = (path, file.st_ino, file.st_mtime_ns, file.st_size)
        variables = tuple(os.environ.get(name) for name in VARIABLES)
        key = (id(engine), state, sizes, variables, tuple(sorted(options.items())))
        if key not in self._encoders:
            if len(self._encoders) == MAX_KEPT:
                del self._encoders[next(iter(self._encoders))]
            self._encoders[key] = _core.Encoder(
                engine, path, tokenizer, *sizes, image_processor=image_processor, **options
            )
        return self._encoders[key]
