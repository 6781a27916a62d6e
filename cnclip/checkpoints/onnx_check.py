"""Compares the rows of ONNX Runtime with torch's, on random batches of several shapes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

logger = logging.getLogger("cnclip")

# The largest difference of two numbers of a row, which has unit length.
MAX_DEVIATION = 1e-5
_SEED = 0


def random_pixels(resolution: int) -> Iterator[Tensor]:
    """Batches of 1 to 3 images, float32 [n, 3, resolution, resolution]."""
    generator = torch.Generator().manual_seed(_SEED)
    for batch in (1, 3, 2):
        yield torch.randn(batch, 3, resolution, resolution, generator=generator)


def random_ids(vocabulary: int, context_length: int, pad_id: int) -> Iterator[Tensor]:
    """Batches of 1 to 6 texts of 2 to `context_length` ids, int64 [n, l].

    The first text fills its row; the others have random lengths, and padding after them.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def random(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    shapes = [(1, 2), (1, context_length), (6, context_length)]
    shapes += [(int(random(1, 6)), int(random(2, context_length))) for _ in range(3)]
    for batch, length in shapes:
        ids = random(0, vocabulary - 1, batch, length)
        lengths = random(1, length, batch, 1)
        lengths[0] = length
        yield ids.where(torch.arange(length) < lengths, pad_id)


def largest_deviation(
    file: Path,
    input: str,
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    source: Path,
) -> float | None:
    """The largest difference of ONNX Runtime's rows from torch's; a log line reports it.

    Args:
        file: The ONNX file.
        input: The name of its input.
        encode: A batch to torch's rows. Rows that are not finite there are not compared.
        batches: The batches.
        source: The model that the file was made from, for messages.

    Returns:
        The difference; None where ONNX Runtime is not installed.

    Raises:
        CheckpointError: it is above MAX_DEVIATION.
    """
    try:
        import onnxruntime
    except ImportError:
        logger.warning(
            "%s is not checked: onnxruntime is not installed: pip install 'cnclip[onnx]'", file.name
        )
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    deviation, count = 0.0, 0
    for batch in batches:
        with torch.inference_mode():
            expected = encode(batch)
        (rows,) = session.run(None, {input: batch.numpy()})
        differences = (torch.from_numpy(rows) - expected)[expected.isfinite()]
        if differences.numel() > 0:
            deviation = max(deviation, float(differences.abs().nan_to_num(torch.inf).max()))
        count += 1
    if deviation > MAX_DEVIATION:
        raise CheckpointError(
            f"rows of {file.name} in ONNX Runtime {onnxruntime.__version__} differ by up to "
            f"{deviation:.1e} from torch's, expected at most {MAX_DEVIATION:.0e}; please report it",
            file=source,
        )
    logger.info(
        "%s: rows of %d random batches are within %.1e of torch's", file.name, count, deviation
    )
    return deviation
